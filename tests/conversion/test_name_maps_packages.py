import re

import pytest
import timm
import torch

from medmerge_hf.conversion.convert import convert_onto
from medmerge_hf.conversion.name_maps_packages import _merging_of_swin, _with_statistics
from medmerge_hf.errors import ArchitectureMismatchError
from medmerge_hf.networks.build import build_network, network_config
from medmerge_hf.networks.timm_config import timm_config
from medmerge_hf.sources.reference import LoadedSource, SourceReference


def found(architecture, tensors, **stated):
    """Names and shapes of a source brought onto an architecture; no weights."""
    with torch.device("meta"):
        network = build_network(network_config(timm_config(architecture), num_labels=2))
    source = LoadedSource(SourceReference("a.pth", "file", architecture=architecture, **stated), tensors)
    return convert_onto(network, source, anchor=True)


def renamed(architecture, rules, prefix=""):
    """A timm network's empty tensors under the names of a package."""
    with torch.device("meta"):
        tensors = timm.create_model(architecture).state_dict()
    made = {}
    for name, tensor in tensors.items():
        for pattern, replacement in rules.items():
            name = re.sub(pattern, replacement, name)
        made[prefix + name] = tensor
    return made


MM_VIT = {
    r"^patch_embed\.proj\.": "patch_embed.projection.",
    r"^blocks\.(\d+)\.norm(\d)\.": r"layers.\1.ln\2.",
    r"^blocks\.(\d+)\.mlp\.fc1\.": r"layers.\1.ffn.layers.0.0.",
    r"^blocks\.(\d+)\.mlp\.fc2\.": r"layers.\1.ffn.layers.1.",
    r"^blocks\.": "layers.",
    r"^norm\.": "ln1.",
    r"^head\.": "head.layers.head.",
}

DETECTRON2 = {
    **{r"^conv1\.": "stem.conv1.", r"^bn1\.": "stem.conv1.norm.", r"bn(\d)\.": r"conv\1.norm."},
    **{r"downsample\.0\.": "shortcut.", r"downsample\.1\.": "shortcut.norm.", r"^fc\.": "linear."},
    r"layer(\d)": lambda part: f"res{int(part[1]) + 1}",
}

MONAI = {r"(denselayer\d+)\.": r"\1.layers.", r"^classifier\.": "class_layers.out."}


def lukemelas():
    """efficientnet_pytorch's names, its blocks counted through."""
    with torch.device("meta"):
        made = timm.create_model("tf_efficientnet_b0")
    places = [name for name, _ in made.named_modules() if re.fullmatch(r"blocks\.\d+\.\d+", name)]
    words = {"conv_dw": "_depthwise_conv", "se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand"}
    outer = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    tensors = {}
    for name, tensor in made.state_dict().items():
        place = next((p for p in places if name.startswith(f"{p}.")), None)
        layer, _, leaf = name.removeprefix(f"{place}.").rpartition(".")
        if place is None:
            tensors[f"{outer[layer]}.{leaf}"] = tensor
            continue
        own = {"conv_pw": "_project_conv", "bn1": "_bn1", "bn2": "_bn2"}
        if hasattr(made.get_submodule(place), "conv_pwl"):
            own = {"conv_pw": "_expand_conv", "conv_pwl": "_project_conv", "bn1": "_bn0", "bn2": "_bn1", "bn3": "_bn2"}
        tensors[f"_blocks.{places.index(place)}.{(words | own)[layer]}.{leaf}"] = tensor
    return tensors


def test_names_of_mmpretrain_are_translated_under_its_prefix():
    vit = found("test_vit", renamed("test_vit", MM_VIT, "backbone."))
    assert vit.pairs["blocks.0.mlp.fc1.weight"] == "backbone.layers.0.ffn.layers.0.0.weight"
    assert "names of MMPretrain's ViT translated" in vit.notes


def test_the_pixels_of_a_patch_are_brought_into_swins_order():
    ours = torch.arange(8.0).reshape(1, 4, 2)  # pixels by columns, channels last
    theirs = ours[:, [0, 2, 1, 3]].transpose(1, 2).reshape(1, 8)  # channels first, pixels by rows
    name = "stages.0.downsample.reduction.weight"
    assert torch.equal(_merging_of_swin({name: theirs})[name], ours.reshape(1, 8))


def test_lukemelas_efficientnet_fits_tensorflows_padding_alone():
    assert "names of lukemelas' EfficientNet translated" in found("tf_efficientnet_b0", lukemelas()).notes
    with pytest.raises(ArchitectureMismatchError, match=r"padding tf_same.*variant=\{.*'accept': True\}"):
        found("efficientnet_b0", lukemelas())


def test_what_the_names_of_detectron_and_monai_leave_open_is_asked():
    tensors = renamed("resnet18", DETECTRON2, "backbone.bottom_up.")
    with pytest.raises(ArchitectureMismatchError, match=r"Detectron2.*variant=\{'stride': 'conv2'\}"):
        found("resnet18", tensors)
    assert (
        found("resnet18", tensors, variant={"stride": "conv2"}).pairs["bn1.weight"].endswith("stem.conv1.norm.weight")
    )
    monai = renamed("resnet18", {}) | {"layer2.0.downsample.0.bias": torch.empty(128, device="meta")}
    with pytest.raises(ArchitectureMismatchError, match="conv1_t_stride=2"):
        found("resnet18", monai)
    notes = found("resnet18", monai, variant={"stride": "conv2"}).notes
    assert "1 biases before a BatchNorm taken off its mean" in notes


def test_an_export_with_folded_batch_norms_is_not_taken_for_monais():
    folded = {name: t for name, t in renamed("resnet18", {}).items() if not re.search(r"bn\d|downsample\.1", name)}
    convolutions = [name for name, tensor in folded.items() if tensor.ndim == 4]
    folded |= {f"{name[:-7]}.bias": torch.empty(len(folded[name]), device="meta") for name in convolutions}
    notes = found("resnet18", folded).notes
    assert "20 BatchNorms that were folded into convolutions taken out again" in notes


def test_scales_and_shifts_of_caffe_are_batch_norms():
    made = _with_statistics({"res2_0_branch1_bn_s": torch.ones(2)})
    assert torch.equal(made["res2_0_branch1_bn_rm"], torch.zeros(2))
    assert torch.allclose(made["res2_0_branch1_bn_riv"] + 1e-5, torch.ones(2))


def test_monais_densenet_and_dinov2s_chunks_are_translated():
    assert "names of MONAI's DenseNet translated" in found("densenet121", renamed("densenet121", MONAI)).notes
    chunks = renamed("test_vit", {r"^blocks\.(\d)\.": r"blocks.0.\1."})
    assert "names of DINOv2's chunks translated" in found("test_vit", chunks).notes


def test_fastais_head_is_dropped_and_its_body_numbered():
    with torch.device("meta"):
        made = torch.nn.Sequential(torch.nn.Sequential(*list(timm.create_model("resnet18").children())[:-2]))
    tensors = made.state_dict() | {"1.8.weight": torch.empty(5, 512, device="meta")}
    assert found("resnet18", tensors).dropped == ["head.1.8.weight"]
