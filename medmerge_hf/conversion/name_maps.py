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
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from ..networks.timm_config import lacks_classifier
from ..sources.reference import BY_ORDER, NetworkVariant
from .name_maps_keras import KERAS
from .name_maps_packages import dialects_of
from .name_maps_transformers import NATIVE
from .state_dict import find_prefix, shared_prefix
from .unfolding import norms_behind, unfold


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
    "inception_v3": "inception_v3",
}

# Of torchvision's networks, what only their training needs.
AUXILIARY = "AuxLogits."

PAIRED = "paired by shape and order"

STATISTICS = ("running_mean", "running_var")

LEGACY_DENSENET = {r"\.(norm|conv)\.([12])\.": r".\1\2."}


@dataclasses.dataclass(frozen=True)
class Translation:
    """Which tensors of a checkpoint stand for the anchor's.

    Args:
        pairs: the anchor's name -> name or names in the checkpoint; several are stacked along the first axis.
        note: what was recognised.
        original: makes the network that the names come from, where it is known.
        rest: what stands for nothing of the anchor's: the name it would have there -> name in the checkpoint. By
            default all that is not in `pairs`, under its own name.
        tensors: the checkpoint, where it had to be changed first.
        variant: in what the network of these names differs from the anchor's.
    """

    pairs: dict[str, tuple[str, ...]]
    note: str
    original: Callable[[], nn.Module] | None = None
    rest: dict[str, str] | None = None
    tensors: Mapping[str, Tensor] | None = None
    variant: NetworkVariant | None = None

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
    for translator in (_numbered, _legacy_densenet, _torchvision, _dialect, _keras, _native, _timm_converter):
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
    if found := _unnumbered(names.backbone, names.wanted, names.tensors):
        pairs, rest = found
        return Translation({ours: (theirs,) for ours, theirs in pairs.items()}, note, rest=rest)
    original = torchvision_original(names.architecture)
    if original is None:
        return None
    theirs = _torchvision_body(original)
    found = _unnumbered(original, theirs, names.tensors)
    if found is None:
        return None
    back, rest = found
    inner = _torchvision(dataclasses.replace(names, tensors={k: names.tensors[v] for k, v in back.items()}))
    if inner is None:
        return None
    pairs = {ours: back[name] for ours, (name,) in inner.pairs.items()}
    return Translation({ours: (name,) for ours, name in pairs.items()}, f"{note}, {inner.note}", rest=rest)


def _unnumbered(
    network: nn.Module, wanted: Iterable[str], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, str], dict[str, str]] | None:
    """Name in the network -> name in a checkpoint that numbers the network's children; and the rest likewise."""
    children = [name for name, _ in network.named_children()]
    places = {name: str(index) for index, name in enumerate(children)}
    split = {name: name.partition(".") for name in wanted}
    numbered = {f"{places[top]}.{rest}": name for name, (top, dot, rest) in split.items() if dot and top in places}
    prefix = find_prefix(tensors, numbered)
    needed = {prefix + name for name in numbered if not name.endswith(STATISTICS)}
    if len(numbered) < len(split) or not needed <= tensors.keys():
        return None
    pairs = {name: prefix + key for key, name in numbered.items() if prefix + key in tensors}
    shared, rest, used = shared_prefix(tensors), dict[str, str](), set(pairs.values())
    for name in tensors.keys() - used:
        top, _, leaf = name.removeprefix(prefix).partition(".")
        if name.startswith(prefix) and top.isdigit() and int(top) < len(children):
            rest[f"{children[int(top)]}.{leaf}"] = name
        else:  # fastai's network is a body, 0, and a head, 1
            own = name.removeprefix(shared)
            rest[f"head.{own}" if prefix and own.split(".")[0].isdigit() else own] = name
    return pairs, rest


def _torchvision_body(original: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name -> shape of a torchvision network without its heads."""
    heads = (f"{last_linear(original)}.", AUXILIARY)
    return {name: shape for name, shape in _floating(original).items() if not name.startswith(heads)}


def _legacy_densenet(names: Names) -> Translation | None:
    """torchvision's DenseNet before 2019: `norm.1` for `norm1` (CheXNet's checkpoints)."""
    if not any(re.search(pattern, name) for pattern in LEGACY_DENSENET for name in names.tensors):
        return None
    return _renamed(names, partial(_substitute, LEGACY_DENSENET), "old DenseNet names renewed")


def _torchvision(names: Names) -> Translation | None:
    original = torchvision_original(names.architecture)
    if original is None:
        return None
    theirs = _torchvision_body(original)
    if lacks_classifier(names.backbone.state_dict(), names.tensors):
        theirs = {name: shape for name, shape in theirs.items() if not name.startswith("classifier.")}
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


def _dialect(names: Names) -> Translation | None:
    """Packages that build their networks themselves."""
    for dialect in dialects_of(names.tensors):
        tensors = dialect.prepare(names.tensors)
        rename = partial(_substitute, dialect.rules(names.backbone))
        note = f"names of {dialect.name} translated"
        if found := _renamed(dataclasses.replace(names, tensors=tensors), rename, note):
            return dataclasses.replace(found, tensors=tensors, variant=dialect.variant)
    return None


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
    theirs = {key: tuple(t.shape) for key, t in names.tensors.items() if t.is_floating_point() and t.numel() > 1}
    ours = {name: tuple(tensor.shape) for name, tensor in names.wanted.items()}
    body = _without_last_linear(theirs)
    if pairs := align_by_order(ours, theirs) or align_by_order(ours, body):
        return Translation({name: (key,) for name, key in pairs.items()}, PAIRED, rest={})
    folded = _folded(names.backbone, ours)
    pairs = align_by_order(folded, theirs) or align_by_order(folded, body)
    if pairs is None:
        return None
    tensors, notes = unfold({name: names.tensors[key] for name, key in pairs.items()}, names.backbone)
    return Translation({name: (name,) for name in ours}, "; ".join([PAIRED, *notes]), rest={}, tensors=tensors)


def _without_last_linear(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Without the last matrix and the bias behind it: the head, whatever its name."""
    names = list(shapes)
    last = next((index for index in reversed(range(len(names))) if len(shapes[names[index]]) == 2), len(names))
    out = shapes[names[last]][:1] if last < len(names) else ()
    head = {names[i] for i in (last, last + 1) if i < len(names) and (i == last or shapes[names[i]] == out)}
    return {name: shape for name, shape in shapes.items() if name not in head}


def _folded(backbone: nn.Module, ours: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Names and shapes as they would be with BatchNorms folded into the convolutions before them."""
    norms = norms_behind(backbone)
    gone = {f"{norm}.{leaf}" for norm in norms.values() for leaf in ("weight", "bias", *STATISTICS)}
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in ours.items():
        if name not in gone:
            found[name] = shape
        if name.removesuffix(".weight") in norms:
            found[f"{name.removesuffix('.weight')}.bias"] = shape[:1]
    return found


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


def torchvision_network(name: str) -> nn.Module:
    """torchvision's network, with fresh weights."""
    import torchvision

    quick = {"init_weights": False} if name == "inception_v3" else {}
    return torchvision.models.get_model(name, weights=None, **quick)


@cache  # several questions are asked of it for every source, and none changes it
def torchvision_original(architecture: str) -> nn.Module | None:
    """torchvision's network of a timm architecture, empty; `None` where the two share their names."""
    kind = TORCHVISION.get(architecture)
    if kind is None:
        return None
    with torch.device("meta"):
        return torchvision_network(kind)


def last_linear(network: nn.Module) -> str:
    """Name of the last linear layer in order of definition: the head of a torchvision network."""
    return [name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1]
