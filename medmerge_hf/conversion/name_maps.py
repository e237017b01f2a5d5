"""The names that other libraries give to the tensors of a timm network.

Each translator looks at a checkpoint's names and says which of its tensors stands for which of the anchor's. Names can
deceive, so a translation whose original network can be built is verified afterwards ([`verification`]).
"""

import dataclasses
import math
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..sources.reference import BY_ORDER
from .name_maps_keras import KERAS
from .state_dict import find_prefix


# timm -> torchvision, where the two do not share their names (resnet and densenet do).
TORCHVISION = {
    "mobilenetv2_100": "mobilenet_v2",
    "mobilenetv3_large_100": "mobilenet_v3_large",
    "mobilenetv3_small_100": "mobilenet_v3_small",
    **{f"efficientnet_b{size}": f"efficientnet_b{size}" for size in range(5)},
    **{f"convnext_{size}": f"convnext_{size}" for size in ("tiny", "small", "base", "large")},
    **{f"vit_{name}_patch{patch}_224": f"vit_{name[0]}_{patch}" for name in ("base", "large") for patch in (16, 32)},
    **{f"swin_{name}_patch4_window7_224": f"swin_{name[0]}" for name in ("tiny", "small", "base")},
    **{f"vgg{depth}{norm}": f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")},
}

STATISTICS = ("running_mean", "running_var")

LEGACY_DENSENET = {r"\.(norm|conv)\.([12])\.": r".\1\2."}

# transformers -> timm, as regular expressions over names in memory (transformers 5) and in files.
_BLOCK = {
    r"attention\.(?:q_proj|(?:attention|self)\.query)\.": r"attn.qkv.0.",
    r"attention\.(?:k_proj|(?:attention|self)\.key)\.": r"attn.qkv.1.",
    r"attention\.(?:v_proj|(?:attention|self)\.value)\.": r"attn.qkv.2.",
    r"attention\.(?:o_proj|output\.dense)\.": r"attn.proj.",
    r"attention\.(?:self\.)?(?:relative_position_bias\.)?relative_position_bias_table": (
        r"attn.relative_position_bias_table"
    ),
    r"layernorm_before\.": r"norm1.",
    r"layernorm_after\.": r"norm2.",
    r"(?:intermediate\.dense|mlp\.fc1)\.": r"mlp.fc1.",
    r"(?:output\.dense|mlp\.fc2)\.": r"mlp.fc2.",
}

NATIVE: dict[str, dict[str, Any]] = {
    "resnet": {
        r"^embedder\.embedder\.convolution\.": r"conv1.",
        r"^embedder\.embedder\.normalization\.": r"bn1.",
        r"^encoder\.stages\.(\d+)\.layers\.": lambda found: f"layer{int(found[1]) + 1}.",
        r"shortcut\.convolution\.": r"downsample.0.",
        r"shortcut\.normalization\.": r"downsample.1.",
        r"layer\.(\d+)\.convolution\.": lambda found: f"conv{int(found[1]) + 1}.",
        r"layer\.(\d+)\.normalization\.": lambda found: f"bn{int(found[1]) + 1}.",
    },
    "vit": {
        r"^embeddings\.cls_token": r"cls_token",
        r"^embeddings\.position_embeddings": r"pos_embed",
        r"^embeddings\.patch_embeddings\.projection\.": r"patch_embed.proj.",
        r"^(?:encoder\.layer|layers)\.(\d+)\.": r"blocks.\1.",
        r"^layernorm\.": r"norm.",
        **_BLOCK,
    },
    "convnext": {
        r"^embeddings\.patch_embeddings\.": r"stem.0.",
        r"^embeddings\.layernorm\.": r"stem.1.",
        r"^encoder\.stages\.(\d+)\.downsampling_layer\.": r"stages.\1.downsample.",
        r"^encoder\.stages\.(\d+)\.layers\.": r"stages.\1.blocks.",
        r"^layernorm\.": r"head.norm.",
        r"layer_scale_parameter": r"gamma",
        r"dwconv\.": r"conv_dw.",
        r"layernorm\.": r"norm.",
        r"pwconv(\d)\.": r"mlp.fc\1.",
    },
    "swin": {
        r"^embeddings\.patch_embeddings\.projection\.": r"patch_embed.proj.",
        r"^embeddings\.norm\.": r"patch_embed.norm.",
        r"^encoder\.layers\.(\d+)\.downsample\.": lambda found: f"layers.{int(found[1]) + 1}.downsample.",
        r"^encoder\.layers\.": r"layers.",
        r"^layernorm\.": r"norm.",
        **_BLOCK,
    },
}


@dataclasses.dataclass(frozen=True)
class Translation:
    """Which tensors of a checkpoint stand for the anchor's.

    Args:
        pairs: the anchor's name -> name or names in the checkpoint; several are stacked along the first axis.
        note: what was recognised.
        original: makes the network that the names come from, where it is known.
        rest: what stands for nothing of the anchor's: the name it would have there -> name in the checkpoint. By
            default all that is not in `pairs`, under its own name.
    """

    pairs: dict[str, tuple[str, ...]]
    note: str
    original: Callable[[], nn.Module] | None = None
    rest: dict[str, str] | None = None

    def apply(self, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The checkpoint's tensors under the anchor's names; linear layers become the convolutions they stand for."""
        found = {}
        for ours, theirs in self.pairs.items():
            tensor = tensors[theirs[0]] if len(theirs) == 1 else torch.cat([tensors[name] for name in theirs])
            fits = tensor.numel() == wanted[ours].numel()
            found[ours] = tensor.reshape(wanted[ours].shape) if fits else tensor
        return found


@dataclasses.dataclass(frozen=True)
class Names:
    """What a translator looks at.

    Args:
        tensors: the checkpoint.
        wanted: floating point tensors of the anchor's backbone, the head left out.
        backbone: the anchor's.
        architecture: timm's name of it.
        config: of the source's own network, where it has one.
    """

    tensors: Mapping[str, Tensor]
    wanted: Mapping[str, Tensor]
    backbone: nn.Module
    architecture: str
    config: Mapping[str, Any] | None = None


def translate(names: Names, key_map: Mapping[str, str] | str | None = None) -> Translation | None:
    """Recognise the names of a checkpoint.

    Args:
        names: of checkpoint and anchor.
        key_map: see [`SourceReference`]; asked first.

    Returns:
        The translation, or `None` where nobody knows these names.

    Example:
        >>> import timm, torchvision
        >>> network = timm.create_model("mobilenetv2_100", num_classes=0)
        >>> original = torchvision.models.mobilenet_v2(weights=None)
        >>> wanted = {name: t for name, t in network.state_dict().items() if t.is_floating_point()}
        >>> names = Names(original.state_dict(), wanted, network, "mobilenetv2_100")
        >>> translate(names).pairs["conv_stem.weight"]
        ('features.0.0.weight',)
    """
    if key_map == BY_ORDER:
        return _by_order(names)
    if key_map:
        return _renamed(names, partial(_substitute, dict(key_map)), "key_map applied")  # type: ignore[arg-type]
    for translator in (_numbered, _legacy_densenet, _torchvision, _keras, _native, _timm_converter):
        if found := translator(names):
            return found
    return None


def _renamed(
    names: Names, rename: Callable[[str], str], note: str, original: Callable[[], nn.Module] | None = None
) -> Translation | None:
    """A translation by names alone; parts that end in `.0.`, `.1.`, `.2.` of qkv are stacked."""
    parts: dict[str, dict[int, str]] = defaultdict(dict)
    for name in names.tensors:
        ours = rename(name)
        found = re.match(r"(.*qkv)\.([012])\.(.*)$", ours)
        parts[f"{found[1]}.{found[3]}" if found else ours][int(found[2]) if found else 0] = name
    prefix = find_prefix(parts, names.wanted)
    if not {prefix + name for name in names.wanted if not name.endswith(STATISTICS)} <= parts.keys():
        return None
    present = [name for name in names.wanted if prefix + name in parts]
    pairs = {name: tuple(parts[prefix + name][index] for index in sorted(parts[prefix + name])) for name in present}
    rest = {
        n.removeprefix(prefix): min(own.values()) for n, own in parts.items() if n.removeprefix(prefix) not in pairs
    }
    return Translation(pairs, note, original, rest)


def _substitute(rules: Mapping[str, Any], name: str) -> str:
    for pattern, replacement in rules.items():
        name = re.sub(pattern, replacement, name)
    return name


def _numbered(names: Names) -> Translation | None:
    """`nn.Sequential(*network.children())`, as RadImageNet's checkpoints: numbers instead of the outermost names."""
    note = "nn.Sequential numbering undone"
    if back := _unnumbered(names.backbone, names.wanted, names.tensors):
        return Translation({ours: (theirs,) for ours, theirs in back.items()}, note)
    original = _torchvision_network(names)
    if original is None:
        return None
    last = f"{last_linear(original)}."
    back = _unnumbered(original, [name for name in _floating(original) if not name.startswith(last)], names.tensors)
    inner = _torchvision(dataclasses.replace(names, tensors={k: names.tensors[v] for k, v in (back or {}).items()}))
    if back is None or inner is None:
        return None
    pairs = {ours: tuple(back[name] for name in theirs) for ours, theirs in inner.pairs.items()}
    return Translation(pairs, f"{note}, {inner.note}")


def _unnumbered(network: nn.Module, wanted: Iterable[str], tensors: Mapping[str, Tensor]) -> dict[str, str] | None:
    """Name in the network -> name in a checkpoint that numbers the network's children."""
    places = {name: index for index, (name, _) in enumerate(network.named_children())}
    split = {name: name.partition(".") for name in wanted}
    numbered = {f"{places[top]}.{rest}": name for name, (top, dot, rest) in split.items() if dot and top in places}
    prefix = find_prefix(tensors, numbered)
    needed = {prefix + name for name in numbered if not name.endswith(STATISTICS)}
    if len(numbered) < len(split) or not needed <= tensors.keys():
        return None
    return {name: prefix + key for key, name in numbered.items() if prefix + key in tensors}


def _legacy_densenet(names: Names) -> Translation | None:
    """torchvision's DenseNet before 2019: `norm.1` for `norm1` (CheXNet's checkpoints)."""
    if not any(re.search(pattern, name) for pattern in LEGACY_DENSENET for name in names.tensors):
        return None
    return _renamed(names, partial(_substitute, LEGACY_DENSENET), "old DenseNet names renewed")


def _torchvision(names: Names) -> Translation | None:
    original = _torchvision_network(names)
    if original is None:
        return None
    last = last_linear(original)
    theirs = {key: shape for key, shape in _floating(original).items() if not key.startswith(f"{last}.")}
    prefix = find_prefix(names.tensors, theirs)
    if not {prefix + key for key in theirs} <= names.tensors.keys():
        return None
    pairs = align_by_order({name: tuple(tensor.shape) for name, tensor in names.wanted.items()}, theirs)
    if pairs is None:
        return None
    kind = TORCHVISION[names.architecture]
    return Translation(
        {ours: (prefix + name,) for ours, name in pairs.items()},
        f"torchvision's names for {kind} translated",
        partial(torchvision_network, kind),
    )


def _native(names: Names) -> Translation | None:
    """transformers' own networks."""
    stated = (names.config or {}).get("model_type")
    for kind in [stated] if stated in NATIVE else NATIVE:
        tops = tuple(f"{top}." for top in (kind, ""))
        for top in tops:
            rename = partial(_substitute, {rf"^{re.escape(top)}": "", **NATIVE[kind]})
            if found := _renamed(names, rename, f"transformers' names for {kind} translated"):
                return found
    return None


def _keras(names: Names) -> Translation | None:
    """keras.applications, as the Keras reader names their layers."""
    for kind, rules in KERAS.items():
        if found := _renamed(names, partial(_keras_name, rules), f"Keras' names for {kind} translated"):
            return found
    return None


def _keras_name(rules: Mapping[str, Any], name: str) -> str:
    """Whoever trains with keras.applications names the layers on top as they like."""
    ours = _substitute(rules, name)
    return ours if ours != name else f"head.{name}"


def _timm_converter(names: Names) -> Translation | None:
    """The converter that timm carries for the original checkpoints of an architecture."""
    convert = getattr(sys.modules[type(names.backbone).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return None
    tags = {name: torch.empty_like(tensor, device="meta") for name, tensor in names.tensors.items()}
    try:
        found = convert(dict(tags), names.backbone)
    except Exception:  # whatever it raises on names that it was not written for
        return None
    origin = {id(tensor): name for name, tensor in tags.items()}
    back = {ours: origin[id(t)] for ours, t in found.items() if id(t) in origin and ours in names.wanted}
    pairs: dict[str, tuple[str, ...]] = {ours: (theirs,) for ours, theirs in back.items()}
    if (
        all(ours == theirs for ours, theirs in back.items())
        or not {n for n in names.wanted if not n.endswith(STATISTICS)} <= pairs.keys()
    ):
        return None
    return Translation(pairs, f"converted by timm ({type(names.backbone).__module__})")


def _by_order(names: Names) -> Translation | None:
    theirs = {key: tuple(t.shape) for key, t in names.tensors.items() if t.is_floating_point()}
    ours = {name: tuple(tensor.shape) for name, tensor in names.wanted.items()}
    heads = [name for name in theirs if name.endswith(".weight") and len(theirs[name]) == 2][-1:]
    body = {k: s for k, s in theirs.items() if not any(k.startswith(f"{h.rpartition('.')[0]}.") for h in heads)}
    pairs = align_by_order(ours, theirs) or align_by_order(ours, body)
    if pairs is None:
        return None
    return Translation({name: (key,) for name, key in pairs.items()}, "paired by shape and order", rest={})


def align_by_order(
    ours: Mapping[str, tuple[int, ...]], theirs: Mapping[str, tuple[int, ...]]
) -> dict[str, str] | None:
    """Pair tensors of the same shape in their order of definition.

    Args:
        ours: name -> shape, in order. Axes of length 1 do not count; a linear layer may stand for a convolution.
        theirs: likewise.

    Returns:
        Our name -> theirs; `None` where that is not one-to-one.

    Example:
        >>> align_by_order({"a": (2, 3), "b": (2,)}, {"x": (2, 1), "y": (2, 3, 1, 1)})
        {'a': 'y', 'b': 'x'}
    """
    waiting = defaultdict(list)
    for name, shape in theirs.items():
        waiting[_signature(shape)].append(name)
    pairs = {}
    for name, shape in ours.items():
        if not waiting[_signature(shape)]:
            return None
        pairs[name] = waiting[_signature(shape)].pop(0)
    return None if any(waiting.values()) else pairs


def _signature(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Output channels and the rest: VGG's first linear layer is a 7 x 7 convolution in timm."""
    real = [size for size in shape if size != 1]
    return (real[0], math.prod(real[1:])) if len(real) > 3 and real[-1] > 3 else tuple(real)


def _floating(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(t.shape) for key, t in network.state_dict().items() if t.is_floating_point()}


def _torchvision_network(names: Names) -> nn.Module | None:
    """On the meta device: its names and shapes alone."""
    kind = TORCHVISION.get(names.architecture)
    if kind is None:
        return None
    with torch.device("meta"):
        return torchvision_network(kind)


def torchvision_network(name: str) -> nn.Module:
    """torchvision's network, with fresh weights."""
    import torchvision

    return torchvision.models.get_model(name, weights=None)


def last_linear(network: nn.Module) -> str:
    """Name of the last linear layer in order of definition: the head of a torchvision network."""
    return [name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1]
