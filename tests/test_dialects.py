import pytest
import torch
import torchvision

from medmerge_hf import MedMergeModel
from medmerge_hf.dialects import TORCHVISION, align_by_order, translate
from medmerge_hf.errors import ArchitectureMismatchError


SMALL = [
    "mobilenetv2_100",
    "mobilenetv3_small_100",
    "efficientnet_b0",
    "convnext_tiny",
    "swin_tiny_patch4_window7_224",
]
LARGE = ["vit_base_patch16_224", "vgg16", "vgg16_bn", "mobilenetv3_large_100", "efficientnet_b4", "convnext_base"]


def original(architecture, seed=0):
    """torchvision's network with weights of its own, BatchNorm statistics included."""
    torch.manual_seed(seed)
    network = torchvision.models.get_model(TORCHVISION[architecture], weights=None)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    return network.eval()


@pytest.mark.parametrize("architecture", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_torchvision_checkpoints_are_translated_and_proven(architecture):
    tensors = {f"module.{name}": tensor for name, tensor in original(architecture).state_dict().items()}
    found, note = translate(tensors, architecture)
    assert TORCHVISION[architecture] in note
    assert ("eps 0.001 folded" in note) == architecture.startswith("mobilenetv3")
    assert found


def test_other_names_and_other_networks_are_left_alone():
    assert translate(original("efficientnet_b0").state_dict(), "mobilenetv2_100") is None
    assert translate(original("mobilenetv2_100").state_dict(), "resnet18") is None


def test_the_same_shapes_but_another_network_are_refused(monkeypatch):
    network = original("mobilenetv2_100")
    monkeypatch.setattr("medmerge_hf.dialects.fold_eps", lambda *args: "")
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 0.1
    monkeypatch.setattr("medmerge_hf.dialects._torchvision_network", lambda name: network)
    with pytest.raises(ArchitectureMismatchError, match="another network"):
        translate(network.state_dict(), "mobilenetv2_100")


def test_alignment_must_be_one_to_one():
    assert align_by_order({"a": (2,), "b": (2,)}, {"x": (2,), "y": (2,)}) == {"a": "x", "b": "y"}
    assert align_by_order({"a": (2,)}, {"x": (2,), "y": (2,)}) is None
    assert align_by_order({"a": (2,), "b": (2,)}, {"x": (2,)}) is None


def test_torchvision_and_timm_checkpoints_merge(tmp_path):
    files = []
    for seed in range(2):
        files.append(str(tmp_path / f"{seed}.pth"))
        torch.save(original("mobilenetv2_100", seed).state_dict(), files[-1])
    model = MedMergeModel.from_sources(files, architecture="mobilenetv2_100", num_labels=2, init=1.0)
    assert "mobilenet_v2" in model.config.sources[1]["notes"][0]
    stem = model.plain_model().timm_model.conv_stem.weight
    assert torch.allclose(stem, torch.load(files[1], weights_only=True)["features.0.0.weight"], atol=1e-6)


def test_real_mobilenets_and_efficientnets_merge(real_data):
    folder = real_data / "checkpoints"
    for architecture, names in {
        "mobilenetv2_100": ["mobilenetv2/imagenet_torchvision", "mobilenetv2/fundus_odir"],
        "efficientnet_b0": ["efficientnet_b0/mango_leaf_timm", "efficientnet_b0/photo_vs_drawing_torchvision"],
    }.items():
        files = [str(folder / f"{name}.safetensors") for name in names]
        model = MedMergeModel.from_sources(files, architecture=architecture, num_labels=2)
        assert "torchvision" in model.config.sources[1]["notes"][0]
