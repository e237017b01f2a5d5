import timm
import torch
import torchvision

from medmerge_hf.conversion.convert import convert_onto
from medmerge_hf.networks.backbone import head_modules
from medmerge_hf.networks.build import build_network, network_config
from medmerge_hf.networks.timm_config import file_config
from medmerge_hf.sources.reference import LoadedSource, SourceReference


def vgg(tensors, anchor):
    """A VGG that takes a source, empty; and what was found in it."""
    config = file_config("vgg11", tensors if anchor else whole())
    with torch.device("meta"):
        network = build_network(network_config(config, num_labels=2))
    source = LoadedSource(SourceReference("a.pth", "file", architecture="vgg11"), tensors)
    return network, convert_onto(network, source, anchor=anchor)


def whole():
    with torch.device("meta"):
        return timm.create_model("vgg11").state_dict()


def below_features(prefix):
    """The convolutions alone, under a prefix."""
    return {prefix + n.removeprefix("features."): t for n, t in whole().items() if n.startswith("features.")}


def test_a_vgg_without_its_classifier_keeps_the_anchors_hidden_layers():
    for prefix in ("features.", "module.features.", ""):
        _, found = vgg(below_features(prefix), anchor=False)
        assert found.tensors.keys() == below_features("features.").keys()
        assert "its classifier's hidden layers are not there: the anchor's stay" in found.notes


def test_a_whole_vgg_of_torchvision_is_told_by_its_names_and_shapes():
    with torch.device("meta"):
        tensors = torchvision.models.vgg11().state_dict()
    assert "torchvision's names for vgg11 translated" in vgg(tensors, anchor=True)[1].notes


def test_an_anchor_without_them_gets_new_ones_with_its_head():
    network, found = vgg(below_features("features."), anchor=True)
    assert head_modules(network) == ("pre_logits", "head.fc")
    assert found.tensors.keys() == below_features("features.").keys()
    network, found = vgg(whole(), anchor=True)
    assert head_modules(network) == ("head.fc",)
    assert "pre_logits.fc1.weight" in found.tensors
