from dataclasses import replace

import pytest
import timm
import torch
import torchvision
from tiny import network
from torch import nn

from medmerge_hf import InputConvention, MedMergeModel, inspect_sources
from medmerge_hf.conversion.convert import convert_onto
from medmerge_hf.conversion.verification import apply_variant
from medmerge_hf.errors import ArchitectureMismatchError, NonFiniteSourceError
from medmerge_hf.networks.build import build_network, network_config
from medmerge_hf.networks.features import feature_difference
from medmerge_hf.networks.timm_config import timm_config
from medmerge_hf.sources.reference import LoadedSource, NetworkVariant, SourceReference


def save(module, file):
    torch.save(module.state_dict(), file)
    return str(file)


def merge(anchor, other, **settings):
    model = MedMergeModel.from_sources([anchor, other], num_labels=2, init=1.0, **settings)
    return model, "; ".join(model.config.sources[1]["notes"])


def kept_statistics(model, source):
    """The plain model at `w = 1` with the source's own BatchNorm statistics."""
    plain = model.plain_model().eval()
    statistics = {k: t for k, t in source.state_dict().items() if "running" in k}
    plain.timm_model.load_state_dict(statistics, strict=False)
    return plain


def test_another_batch_norm_eps_is_folded_so_that_the_merge_keeps_it(tmp_path):
    source = network(1)
    reference = {"id": save(source, tmp_path / "a.pth"), "variant": {"bn_eps": 1e-2}}
    model, notes = merge(network(0), reference)
    assert "eps 0.01 folded" in notes
    assert "features equal to" in notes
    original = apply_variant(source, NetworkVariant(bn_eps=1e-2))
    assert feature_difference(original, kept_statistics(model, source), torch.rand(2, 3, 64, 64)) < 1e-5


def test_tensorflows_padding_is_refused_by_name_and_measured_once_accepted(tmp_path):
    reference = {"id": save(network(1), tmp_path / "a.pth"), "variant": {"padding": "tf_same"}}
    with pytest.raises(ArchitectureMismatchError, match=r"a\.pth.*padding tf_same.*'accept': True"):
        merge(network(0), reference)
    reference["variant"]["accept"] = True
    _, notes = merge(network(0), reference)
    assert "padding tf_same: features differ by" in notes


def test_kerass_stride_is_refused_by_name(tmp_path):
    reference = {"id": save(network(1), tmp_path / "a.pth"), "variant": {"stride": "conv1", "pooling": "max"}}
    with pytest.raises(ArchitectureMismatchError, match="stride in conv1 of a bottleneck and pooling max"):
        merge(network(0), reference)


def test_a_stride_in_the_first_convolution_changes_the_network():
    images, resnet = torch.rand(1, 3, 64, 64), timm.create_model("resnet50", zero_init_last=False).eval()
    other = apply_variant(timm.create_model("resnet50"), NetworkVariant(stride="conv1"))
    other.load_state_dict(resnet.state_dict())
    assert (other.layer2[0].conv1.stride, other.layer2[0].conv2.stride) == ((2, 2), (1, 1))
    assert feature_difference(resnet, other, images) > 1e-3


def test_the_same_shapes_but_another_network_are_refused_with_the_difference():
    with pytest.raises(ArchitectureMismatchError, match=r"another network.*Conv2dSame"):
        merge(timm.create_model("efficientnet_b0"), timm.create_model("tf_efficientnet_b0"), image_size=64)


def test_another_variant_in_a_folder_is_refused_as_well(tmp_path):
    timm.models.save_for_hf(timm.create_model("tf_efficientnet_b0"), tmp_path, safe_serialization=True)
    with pytest.raises(ArchitectureMismatchError, match=r"another network.*Conv2dSame"):
        merge(timm.create_model("efficientnet_b0"), str(tmp_path), image_size=64)


def test_a_bare_module_is_run_before_it_is_believed():
    same, other = torchvision.models.resnet18(), torchvision.models.resnet18()
    other.maxpool = nn.AvgPool2d(3, 2, 1)
    anchor = timm.create_model("resnet18")
    assert "features equal to" in merge(anchor, same, image_size=64)[1]
    with pytest.raises(ArchitectureMismatchError, match="another network"):
        merge(anchor, other, image_size=64)


@pytest.mark.parametrize("convention", ["unit", "caffe", {"mean": [0.5], "std": [0.1], "value_range": [0, 255]}])
def test_the_source_takes_the_anchors_images(convention, tmp_path):
    source = network(1)
    source.conv1[0].padding = (0, 0)  # exact everywhere without a padded border
    anchor = network(0)
    reference = {"id": save(source, tmp_path / "a.pth"), "input": convention}
    model, notes = merge(anchor, reference)
    assert "folded into the stem" in notes
    assert "zero padding moves the features" in notes
    plain = kept_statistics(model, source)
    plain.timm_model.conv1[0].padding = (0, 0)
    pixels, stated = torch.rand(2, 3, 64, 64), InputConvention.parse(convention)
    ours, theirs = (
        (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        for mean, std in (
            (anchor.pretrained_cfg["mean"], anchor.pretrained_cfg["std"]),
            (stated.pixel_mean, stated.pixel_std),
        )
    )
    if stated.channel_order == "bgr":
        theirs = theirs.flip(1)
    plain.timm_model.conv1[1].running_mean -= shift(source, stated, anchor)
    assert feature_difference(source, plain, theirs, ours) < 1e-4


def shift(source, stated, anchor):
    """What the fold takes off the mean of the BatchNorm behind the stem: re-estimated after a merge, so it is lost."""
    from medmerge_hf.conversion.input_folding import channel_map

    cfg = anchor.pretrained_cfg
    _, offset = channel_map(stated, InputConvention(mean=cfg["mean"], std=cfg["std"]), 3, 3)
    return torch.einsum("oshw,s->o", source.conv1[0].weight.double(), offset).float()


def test_an_anchor_of_another_convention_is_exported_with_it(tmp_path):
    anchor = {"id": save(network(0), tmp_path / "a.pth"), "input": "caffe"}
    model, _ = merge(anchor, network(1), architecture="test_resnet")
    cfg = model.plain_model().config.pretrained_cfg
    assert cfg["mean"] == pytest.approx([123.68 / 255, 116.779 / 255, 103.939 / 255])
    swapped = torch.load(anchor["id"])["conv1.0.weight"].flip(1)
    assert torch.equal(model.network.timm_model.conv1[0].weight, swapped)  # the exported network takes RGB


def test_a_grey_source_sees_the_luma_of_an_rgb_anchors_images(tmp_path):
    grey = network(1, in_chans=1)
    reference = {"id": save(grey, tmp_path / "a.pth"), "input": {"mean": [0.5], "std": [0.5]}}
    model, notes = merge(network(0), reference)
    assert "1 channel, the luma of RGB" in notes
    weight = model.plain_model().timm_model.conv1[0].weight
    assert torch.allclose(weight.sum(1, keepdim=True), grey.conv1[0].weight, atol=1e-5)


def test_an_rgb_source_under_a_grey_anchor_sees_the_pixel_three_times(tmp_path):
    source = network(1)
    model, notes = merge(network(0, in_chans=1), {"id": save(source, tmp_path / "a.pth")})
    weight = model.plain_model().timm_model.conv1[0].weight
    assert torch.allclose(weight, source.conv1[0].weight.sum(1, keepdim=True), atol=1e-5)
    assert "3 channels" in notes


def test_torchxrayvisions_checkpoints_are_taken(tmp_path):
    torch.manual_seed(0)
    size = {"growth_rate": 8, "block_config": (2, 2, 2, 2)}
    xrv = torchvision.models.DenseNet(**size, num_init_features=16, num_classes=18)
    xrv.features.conv0 = nn.Conv2d(1, 16, 7, 2, 3, bias=False)
    tensors = {**xrv.state_dict(), "op_threshs": torch.zeros(18)}
    torch.save(tensors, tmp_path / "xrv.pth")
    reference = {"id": str(tmp_path / "xrv.pth"), "input": "torchxrayvision"}
    anchor = timm.create_model("densenet121", **size)
    timm.models.save_for_hf(anchor, tmp_path / "anchor", model_config={"model_args": size}, safe_serialization=True)
    _, notes = merge(str(tmp_path / "anchor"), reference)
    assert "op_threshs" in notes
    assert "mean 0.5, std 0.000488, 1 channel, the luma of RGB" in notes


def test_a_source_that_states_nothing_is_noted_to_be_taken_as_the_anchor(tmp_path):
    assert "input not stated" in merge(network(0), save(network(1), tmp_path / "a.pth"))[1]
    assert "input" not in merge(network(0), network(1))[1]


def test_a_merge_with_a_stated_source_is_made_again_from_its_config_alone(tmp_path):
    stated = {"id": save(network(1), tmp_path / "a.pth"), "input": "unit", "variant": {"bn_eps": 1e-3}}
    other = {"id": save(network(0), tmp_path / "b.pth")}
    model = MedMergeModel.from_sources([other, stated], num_labels=2, architecture="test_resnet", init=0.3)
    model.save_pretrained(tmp_path / "out")
    again = MedMergeModel.from_pretrained(tmp_path / "out", merging=True)
    images = torch.rand(2, 3, 64, 64)
    assert torch.allclose(model.eval()(images).logits, again(images).logits, atol=1e-6)


def test_a_file_without_statistics_is_another_norm_layer_or_accepted(tmp_path):
    torch.save({k: t for k, t in network(1).state_dict().items() if "running" not in k}, tmp_path / "a.pth")
    file = str(tmp_path / "a.pth")
    with pytest.raises(ArchitectureMismatchError, match=r"a\.pth.*bn1\.running_mean.*GroupNorm") as refused:
        merge(network(0), file)
    assert inspect_sources([network(0), file]).sources[1].problem == str(refused.value)
    _, notes = merge(network(0), {"id": file, "variant": {"accept": True}})
    assert "no statistics for 15 BatchNorm layers, accepted" in notes


def test_a_bound_that_clips_nothing_is_no_broken_number():
    own, low = build_network(network_config(timm_config("test_resnet"), num_labels=2)), torch.tensor(-torch.inf)
    own.timm_model.register_buffer("low", low.clone())
    tensors = network(0).state_dict() | {"low": low}
    source = LoadedSource(SourceReference("a", "file", architecture="test_resnet"), tensors)
    assert convert_onto(own, source, anchor=True).tensors["low"] == low
    with pytest.raises(NonFiniteSourceError, match="running_var"):
        convert_onto(
            own, replace(source, tensors=tensors | {"bn1.running_var": torch.full((32,), torch.inf)}), anchor=True
        )
