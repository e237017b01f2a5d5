"""The names of packages that build their networks themselves -> timm's, as regular expressions over a checkpoint's.

What stands before a pattern is a wrapper's prefix, which stays. A dialect also says in what its network differs from
timm's.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..sources.reference import NetworkVariant


Rules = Mapping[str, Any]

START = r"(?:^|(?<=\.))"


@dataclasses.dataclass(frozen=True)
class Dialect:
    """How a package names the tensors of a network.

    Args:
        name: of package and network, for notes.
        mark: regular expression of a name that only this dialect has.
        rules: from the anchor's backbone to regular expression -> replacement.
        variant: in what its network differs from timm's.
        ask: what the names leave open, and only the user knows.
        prepare: changes the tensors before they are renamed.
        also: regular expression of another name that has to be there.
    """

    name: str
    mark: str
    rules: Callable[[nn.Module], Rules]
    variant: NetworkVariant | None = None
    ask: str = ""
    prepare: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict
    also: str = ""


def _always(rules: Rules) -> Callable[[nn.Module], Rules]:
    return lambda backbone: rules


def _mbconv_blocks(backbone: nn.Module) -> list[tuple[str, bool]]:
    """Name of each block of a mobile network in order, and whether it expands first."""
    names = dict(backbone.named_modules())
    found = [name for name in names if re.fullmatch(r"blocks\.\d+\.\d+", name)]
    return [(name, f"{name}.conv_pwl" in names) for name in found]


def _block_rule(backbone: nn.Module, parts: tuple[dict[str, str], dict[str, str]], numbers: bool) -> Any:
    """A block's number in a package, or its stage and place, and a layer's name -> timm's."""
    blocks = _mbconv_blocks(backbone)

    def rename(found: re.Match[str]) -> str:
        index = int(found[1])
        name, expands = blocks[index] if numbers and index < len(blocks) else ("", False)
        if not numbers:
            name = f"blocks.{index - 1}.{found[2]}"
            expands = (name, True) in blocks
        layer = parts[expands].get(found[3] if not numbers else found[2])
        return f"{name}.{layer}." if name and layer else found[0]

    return rename


_LUKEMELAS = (
    {
        **{"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"},
        **{"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"},
    },
    {
        **{"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"},
        **{"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"},
        **{"_project_conv": "conv_pwl", "_bn2": "bn3"},
    },
)

_MM_MOBILENET = (
    {"0.conv": "conv_dw", "0.bn": "bn1", "1.conv": "conv_pw", "1.bn": "bn2"},
    {"0.conv": "conv_pw", "0.bn": "bn1", "1.conv": "conv_dw", "1.bn": "bn2", "2.conv": "conv_pwl", "2.bn": "bn3"},
)


def _lukemelas(backbone: nn.Module) -> Rules:
    return {
        rf"{START}_blocks\.(\d+)\.(_\w+)\.": _block_rule(backbone, _LUKEMELAS, numbers=True),
        rf"{START}_conv_stem\.": "conv_stem.",
        rf"{START}_conv_head\.": "conv_head.",
        rf"{START}_bn([01])\.": lambda found: f"bn{int(found[1]) + 1}.",
        rf"{START}_fc\.": "classifier.",
    }


def _mm_mobilenet(backbone: nn.Module) -> Rules:
    return {
        rf"{START}layer(\d)\.(\d+)\.conv\.(\d\.(?:conv|bn))\.": _block_rule(backbone, _MM_MOBILENET, numbers=False),
        rf"{START}conv([12])\.(conv|bn)\.": lambda found: (
            ("conv_stem." if found[1] == "1" else "conv_head.") if found[2] == "conv" else f"bn{found[1]}."
        ),
    }


_FFN = {r"ffn\.layers\.0\.0\.": "mlp.fc1.", r"ffn\.layers\.1\.": "mlp.fc2."}

_MM_VIT = {
    rf"{START}patch_embed\.projection\.": "patch_embed.proj.",
    rf"{START}layers\.(\d+)\.(attn|ffn|ln\d)\.": r"blocks.\1.\2.",
    r"(blocks\.\d+)\.ln(\d)\.": r"\1.norm\2.",
    rf"{START}ln1\.": "norm.",
    rf"{START}layers\.head\.": "",
    **_FFN,
}

_MM_SWIN = {
    rf"{START}patch_embed\.projection\.": "patch_embed.proj.",
    rf"{START}stages\.(\d+)\.downsample\.": lambda found: f"layers.{int(found[1]) + 1}.downsample.",
    rf"{START}stages\.(\d+)\.": r"layers.\1.",
    r"attn\.w_msa\.": "attn.",
    rf"{START}norm3\.": "norm.",
    **_FFN,
}

_MM_CONVNEXT = {
    rf"{START}downsample_layers\.0\.": "stem.",
    rf"{START}downsample_layers\.([123])\.": r"stages.\1.downsample.",
    rf"{START}stages\.(\d+)\.(\d+)\.": r"stages.\1.blocks.\2.",
    r"depthwise_conv\.": "conv_dw.",
    r"pointwise_conv(\d)\.": r"mlp.fc\1.",
    rf"{START}norm3\.": "head.norm.",
}

_MM_DENSENET = {
    rf"{START}stem\.0\.": "features.conv0.",
    rf"{START}stem\.1\.": "features.norm0.",
    rf"{START}stages\.(\d)\.block\.(\d+)\.": lambda found: (
        f"features.denseblock{int(found[1]) + 1}.denselayer{int(found[2]) + 1}."
    ),
    rf"{START}transitions\.3\.0\.": "features.norm5.",
    rf"{START}transitions\.(\d)\.": lambda found: f"features.transition{int(found[1]) + 1}.",
}


def _merging_of_swin(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """MMPretrain merges patches channels first and pixels by rows, Swin itself pixels first and by columns."""
    found = dict(tensors)
    for name, tensor in tensors.items():
        if re.search(r"downsample\.(?:norm|reduction)\.", name) and tensor.shape[-1] % 4 == 0:
            pixels = tensor.reshape(*tensor.shape[:-1], -1, 4).transpose(-1, -2)[..., [0, 2, 1, 3], :]
            found[name] = pixels.reshape(tensor.shape)
    return found


_DETECTRON2 = {
    rf"{START}stem\.conv1\.norm\.": "bn1.",
    rf"{START}stem\.conv1\.": "conv1.",
    rf"{START}res([2-5])\.(\d+)\.": lambda found: f"layer{int(found[1]) - 1}.{found[2]}.",
    r"conv(\d)\.norm\.": r"bn\1.",
    r"shortcut\.norm\.": "downsample.1.",
    r"shortcut\.": "downsample.0.",
}


def _caffe2(found: re.Match[str]) -> str:
    """`res2_0_branch2a_bn_s` and the like."""
    stage, block, branch, norm, leaf = found.groups()
    place = f"layer{int(stage) - 1}.{block}."
    if branch == "1":
        return f"{place}downsample.{1 if norm else 0}.{_CAFFE2_LEAVES[leaf]}"
    return f"{place}{'bn' if norm else 'conv'}{ord(branch[1]) - ord('a') + 1}.{_CAFFE2_LEAVES[leaf]}"


_CAFFE2_LEAVES = {"w": "weight", "s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}

_CAFFE2 = {
    r"^conv1_(w)$": "conv1.weight",
    r"^res_conv1_bn_(s|b|rm|riv)$": lambda found: f"bn1.{_CAFFE2_LEAVES[found[1]]}",
    r"^res([2-5])_(\d+)_branch(1|2[abc])_(bn_)?(w|s|b|rm|riv)$": _caffe2,
    r"^(?!conv1\.|bn1\.|layer\d\.)": "head.",
}


def _with_statistics(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A scale and a shift alone are a BatchNorm of mean 0 and variance 1, whose eps of 1e-5 is part of the 1."""
    found = dict(tensors)
    for name, tensor in tensors.items():
        norm = name.removesuffix("_bn_s")
        if norm != name and f"{norm}_bn_rm" not in tensors:
            found[f"{norm}_bn_rm"] = torch.zeros_like(tensor)
            found[f"{norm}_bn_riv"] = torch.full_like(tensor, 1 - 1e-5)
    return found


_STRIDE = (
    "Detectron's networks stride in the first 1 x 1 of a bottleneck (MSRA's, STRIDE_IN_1X1: true) or in its 3 x 3, "
    "which the file does not tell: say variant={'stride': 'conv2'}, or variant={'stride': 'conv1', 'accept': True}. "
    "Their images are BGR minus a mean, most often input='caffe'."
)

_STEM = (
    "Unless it was built with conv1_t_stride=2, its first convolution strides by 1 where timm's strides by 2, which "
    "the file does not tell and no change of weights makes good. If it was: variant={'stride': 'conv2'}; to merge it "
    "all the same: variant={'accept': True}."
)

DIALECTS = (
    Dialect(
        "lukemelas' EfficientNet",
        rf"{START}_blocks\.0\._depthwise_conv\.",
        _lukemelas,
        NetworkVariant(bn_eps=1e-3, padding="tf_same"),
    ),
    Dialect("MMPretrain's ViT", r"layers\.0\.ffn\.layers\.0\.0\.", _always(_MM_VIT)),
    Dialect("MMPretrain's Swin", r"attn\.w_msa\.", _always(_MM_SWIN), prepare=_merging_of_swin),
    Dialect("MMPretrain's ConvNeXt", r"\.pointwise_conv1\.", _always(_MM_CONVNEXT)),
    Dialect("MMPretrain's MobileNetV2", r"layer1\.0\.conv\.0\.conv\.", _mm_mobilenet),
    Dialect("MMPretrain's DenseNet", r"stages\.0\.block\.0\.norm1\.", _always(_MM_DENSENET)),
    Dialect("Detectron2's ResNet", r"res2\.0\.conv1\.norm\.", _always(_DETECTRON2), ask=_STRIDE),
    Dialect("Detectron's ResNet", r"^res2_0_branch2a_w$", _always(_CAFFE2), ask=_STRIDE, prepare=_with_statistics),
    Dialect(
        "MONAI's ResNet",
        r"layer[2-4]\.0\.downsample\.0\.bias$",
        _always({}),
        ask=_STEM,
        also=r"layer[2-4]\.0\.downsample\.1\.weight$",
    ),
    Dialect(
        "MONAI's DenseNet",
        r"denselayer1\.layers\.norm1\.",
        _always({r"(denselayer\d+)\.layers\.": r"\1.", rf"{START}class_layers\.out\.": "classifier."}),
    ),
    Dialect(
        "Cadene's VGG",
        rf"{START}_features\.0\.",
        _always(
            {
                rf"{START}_features\.": "features.",
                rf"{START}linear([01])\.": lambda f: f"pre_logits.fc{int(f[1]) + 1}.",
            }
        ),
    ),
    Dialect("the module `features` alone", r"^(?:0|conv0)\.weight$", _always({r"^": "features."})),
    Dialect(
        "DINOv2's chunks",
        r"blocks\.\d+\.\d+\.norm1\.",
        _always({rf"{START}blocks\.\d+\.(\d+)\.": r"blocks.\1."}),
    ),
)


def dialects_of(names: Mapping[str, Any]) -> list[Dialect]:
    """The dialects whose marks are among these names."""

    def there(mark: str) -> bool:
        return any(re.search(mark, name) for name in names)

    return [dialect for dialect in DIALECTS if there(dialect.mark) and there(dialect.also)]
