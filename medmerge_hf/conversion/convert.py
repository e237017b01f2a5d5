"""A source as it was read -> the anchor's names, network and input, each step noted and, where it can be, verified."""

import copy
import dataclasses
import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import ArchitectureMismatchError
from ..networks.backbone import backbone_buffers, backbone_module, backbone_parameters, backbone_state, head_modules
from ..networks.build import LABEL_KEYS, architecture_name, build_network, input_shape, network_config
from ..networks.features import feature_difference
from ..networks.input_convention import InputConvention
from ..sources.reference import BY_ORDER, LoadedSource, NetworkVariant
from .input_folding import changes, channel_map, find_stem, fold_into_stem
from .name_maps import Names, translate
from .position_embeddings import resampled
from .state_dict import ConvertedSource, check_values, convert_state_dict, find_prefix, shared_prefix
from .verification import (
    TOLERANCE,
    align_layer_norms,
    apply_variant,
    differences,
    first_convolution,
    structure_differences,
    with_tensors,
)


logger = logging.getLogger(__name__)


# Of a transformers config, what says nothing about what the network computes.
SILENT_KEYS = {*LABEL_KEYS, "dtype", "transformers_version", "_name_or_path", "pretrained_cfg", "global_pool"}


@dataclasses.dataclass
class _Case:
    """One source on its way to an anchor.

    `tensors` lie under the anchor's names, behind `prefix`; `pairs` leads from those to the source's own names, and
    `original` is the network that these belong to, with the source's weights, where it can be had.
    """

    network: Any
    source: LoadedSource
    tensors: dict[str, Tensor]
    pairs: dict[str, str]
    prefix: str = ""
    original: nn.Module | None = None
    notes: list[str] = dataclasses.field(default_factory=list)
    resampled: bool = False

    @property
    def name(self) -> str:
        return self.source.reference.id

    @property
    def variant(self) -> NetworkVariant:
        return self.source.reference.variant or NetworkVariant()

    def own(self) -> dict[str, Tensor]:
        """The backbone's tensors, the prefix taken off."""
        return {name: self.tensors[self.prefix + name] for name in self.pairs}


def convert_onto(
    network: Any,
    source: LoadedSource,
    anchor_input: InputConvention | None = None,
    anchor: bool = False,
    statistics: bool = False,
) -> ConvertedSource:
    """Bring a source under the names of a network's backbone, into its variant, and to its input.

    Args:
        network: a plain classifier of the anchor's architecture.
        source: as it was read. Of empty tensors (meta device) names and shapes are converted, nothing is verified.
        anchor_input: what the network is given; by default what the source was given.
        anchor: whether the floating point buffers (BatchNorm statistics) are wanted too.
        statistics: whether they are returned where there are some.

    Returns:
        Its tensors, by their names below the backbone, and notes.

    Raises:
        ArchitectureMismatchError: names, shapes or what the network computes do not fit.
        SourceError: what [`conversion.convert_state_dict`] raises.
    """
    case = _under_the_anchors_names(network, source)
    _refuse_unfoldable(case)
    wanted: dict[str, Tensor] = dict(backbone_parameters(network))
    if wanted.keys() <= case.pairs.keys():  # otherwise convert_state_dict says what is missing
        _adapt(case, anchor_input)
    buffers = backbone_buffers(network)
    if anchor:
        wanted |= {name: buffer for name, buffer in buffers.items() if buffer.is_floating_point()}
    found = convert_state_dict(
        case.tensors,
        wanted,
        optional=buffers.keys() - wanted.keys(),
        head=head_modules(network),
        source=case.name,
        architecture=architecture_name(network),
    )
    found = dataclasses.replace(found, notes=[*source.notes, *case.notes, *found.notes], pairs=case.pairs)
    logger.info("Source %s: %s.", case.name, "; ".join(found.notes))
    return found if anchor or statistics else found.only(wanted)


def _adapt(case: _Case, anchor_input: InputConvention | None) -> None:
    check_values(case.own(), case.name)
    _resample_positions(case)
    empty = any(tensor.is_meta for tensor in case.tensors.values())
    if not empty and not case.resampled:
        case.original = _original(case)
    _fold_eps(case)
    if not empty:
        _verify(case)
    _fold_input(case, anchor_input, measured=not empty)


def _resample_positions(case: _Case) -> None:
    for name, wanted in backbone_parameters(case.network).items():
        tensor = case.tensors[case.prefix + name]
        found = resampled(name, tensor, wanted)
        if found is not None:
            case.tensors[case.prefix + name] = found
            case.notes.append(f"{name} resampled from {tuple(tensor.shape)} to {tuple(wanted.shape)}")
            case.resampled, case.original = True, None


def _under_the_anchors_names(network: Any, source: LoadedSource) -> _Case:
    wanted, key_map = backbone_state(network), source.reference.key_map
    prefix = "" if key_map else find_prefix(source.tensors, wanted)
    found = None
    if key_map or not {prefix + name for name in backbone_parameters(network)} <= source.tensors.keys():
        names = Names(
            source.tensors, wanted, backbone_module(network), architecture_name(network), source.network_config
        )
        found = translate(names, key_map)
        if found is None and source.module is not None:  # names tell nothing; running it will tell
            found = translate(names, BY_ORDER)
    if found is None and key_map:
        raise ArchitectureMismatchError(
            f"Source {source.reference.id!r}: its key_map {key_map!r} does not lead to the names of "
            f"{architecture_name(network)} one-to-one. `medmerge inspect` shows both."
        )
    if found is None:
        pairs = {name: prefix + name for name in wanted if prefix + name in source.tensors}
        return _Case(network, source, dict(source.tensors), pairs, prefix)
    rest = found.rest
    if rest is None:
        used = {name for theirs in found.pairs.values() for name in theirs}
        shared = shared_prefix(source.tensors)
        rest = {name.removeprefix(shared): name for name in source.tensors if name not in used}
    tensors = {name: source.tensors[own] for name, own in rest.items()} | found.apply(source.tensors, wanted)
    case = _Case(network, source, tensors, {ours: theirs[0] for ours, theirs in found.pairs.items()})
    case.notes.append(found.note)
    if found.original is not None:
        case.original = found.original()
    return case


# What it computes


def _original(case: _Case) -> nn.Module | None:
    """The source's own network in float64, with its weights; `None` where it is the anchor's or is not known."""
    source = case.source
    made: nn.Module | None = case.original
    if made is None and source.module is not None and not _same_network(case):
        if _can_run(source.module):
            return copy.deepcopy(source.module).double().eval()
        if not _describes_itself(source.module):
            return None
    if made is None and source.network_config and not _same_network(case):
        made = build_network(network_config(source.network_config, num_labels=2))
        if source.reference.loader != "transformers":
            made = backbone_module(made)  # timm's own, whose names the source has
    if made is None:
        if not source.reference.variant:
            return None
        below = case.network.base_model_prefix
        speaking = apply_variant(copy.deepcopy(case.network), case.variant, unfoldable=False)
        return with_tensors(speaking, case.own(), below, first_convolution(backbone_module(case.network)))
    prefix = find_prefix(source.tensors, made.state_dict())
    tensors = {name.removeprefix(prefix): t for name, t in source.tensors.items() if name.startswith(prefix)}
    shapes = {name: tensor.shape for name, tensor in made.state_dict().items()}
    stem = first_convolution(made)
    fitting = {n: t for n, t in tensors.items() if shapes.get(n) == t.shape or n == f"{stem}.weight"}
    return with_tensors(apply_variant(made, case.variant, unfoldable=False), fitting, stem=stem)


def _can_run(module: nn.Module) -> bool:
    return type(module).forward is not nn.Module.forward


def _describes_itself(module: nn.Module) -> bool:
    return hasattr(module, "config") or hasattr(module, "pretrained_cfg")


def _same_network(case: _Case) -> bool:
    """Whether the source's config describes the anchor's network under the anchor's names.

    A weights file has no config: the user names its architecture, and nothing is known of its names.
    """
    theirs, ours = case.source.network_config, case.network.config.to_dict()
    module = case.source.module
    if theirs is None or (module is not None and not _describes_itself(module)):
        return False
    if case.source.reference.loader == "file":
        return theirs.get("architecture") == ours.get("architecture")
    if set(case.pairs.values()) - {case.prefix + name for name in case.pairs}:
        return False
    if "architecture" in ours or "architecture" in theirs:
        arguments = [dict(config.get("model_args") or {}) for config in (theirs, ours)]
        for values in arguments:
            for key in ("in_chans", "img_size"):  # folded and resampled
                values.pop(key, None)
        return theirs.get("architecture") == ours.get("architecture") and arguments[0] == arguments[1]
    return all(ours.get(key) == value for key, value in theirs.items() if key not in SILENT_KEYS)


def _fold_eps(case: _Case) -> None:
    """Where BatchNorm has another eps, change its scale: exact with the source's statistics, and kept by the merge."""
    folded = set()
    for name, module in backbone_module(case.network).named_modules():
        if not isinstance(module, _BatchNorm) or f"{name}.weight" not in case.pairs:
            continue
        eps = _source_eps(case, name)
        if eps is None or eps == module.eps:
            continue
        weight, variance = (case.prefix + f"{name}.{leaf}" for leaf in ("weight", "running_var"))
        if variance not in case.tensors:
            raise ArchitectureMismatchError(
                f"Source {case.name!r} has BatchNorm eps {eps:g}, the anchor {module.eps:g}, and no {variance} to "
                "fold the difference with. Take a checkpoint with its BatchNorm statistics."
            )
        var = case.tensors[variance].double()
        case.tensors[weight] = (case.tensors[weight].double() * ((var + module.eps) / (var + eps)).sqrt()).float()
        folded.add(f"BatchNorm eps {eps:g} folded into the scales (here it is {module.eps:g})")
    case.notes += sorted(folded)


def _source_eps(case: _Case, norm: str) -> float | None:
    if case.variant.bn_eps is not None:
        return case.variant.bn_eps
    if case.original is None:
        return None
    theirs = case.pairs[f"{norm}.weight"].removesuffix(".weight")
    for start in range(theirs.count(".") + 1):  # wrapper prefixes are no modules of the original
        try:
            return case.original.get_submodule(theirs.split(".", start)[-1]).eps  # type: ignore[return-value]
        except AttributeError:
            continue
    return None


def _refuse_unfoldable(case: _Case) -> None:
    if (unfoldable := differences(case.network, case.variant)) and not case.variant.accept:
        raise ArchitectureMismatchError(
            f"Source {case.name!r} differs from the anchor in {' and '.join(unfoldable)}, which no change of weights "
            "makes good. Take a checkpoint without that, or merge it all the same: variant={..., 'accept': True}."
        )


def _verify(case: _Case) -> None:
    """Run original and anchor's network on the same images; refuse what differs and was not accepted."""
    unfoldable = differences(case.network, case.variant)
    if case.original is None:
        if case.notes and case.source.reference.variant is None:
            why = "it was made for another image size" if case.resampled else "its own network is not known"
            case.notes.append(f"not verified: {why}")
        return
    images = _images(case)
    ours = with_tensors(
        case.network, case.own(), case.network.base_model_prefix, first_convolution(backbone_module(case.network))
    )
    aligned = align_layer_norms(copy.deepcopy(case.original), ours)
    difference = feature_difference(aligned or case.original, ours, images)
    if difference < TOLERANCE:
        case.notes.append(f"features equal to {difference:.1g}")
    elif not case.variant.accept:
        raise _another_network(case, difference)
    real = apply_variant(copy.deepcopy(case.original), case.variant)
    if difference >= TOLERANCE or unfoldable or aligned is not None:
        apart = feature_difference(real, ours, images)
        what = ", ".join(unfoldable) or ("another LayerNorm eps" if aligned is not None else "another network")
        case.notes.append(f"{what}: features differ by {apart:.2g}")
    case.original = real


def _another_network(case: _Case, difference: float) -> ArchitectureMismatchError:
    original: Any = case.original
    found = structure_differences(original, backbone_module(case.network), case.pairs)
    return ArchitectureMismatchError(
        f"Source {case.name!r} has the shapes of {architecture_name(case.network)} but is another network: with its "
        f"weights the anchor computes other features (relative difference {difference:.2g})"
        f"{': ' + '; '.join(found) if found else ''}. Merge checkpoints of one network, or accept the difference: "
        "variant={'accept': True}."
    )


def _images(case: _Case) -> Tensor:
    _, *size = input_shape(case.network)
    stem = first_convolution(backbone_module(case.network))
    return _noise(case.tensors[f"{case.prefix}{stem}.weight"].shape[1], *size)


def _noise(*shape: int) -> Tensor:
    """One image as normalised images are: between -2 and 2."""
    return torch.rand(1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4 - 2


# What it sees


def _fold_input(case: _Case, anchor_input: InputConvention | None, measured: bool) -> None:
    backbone = backbone_module(case.network)
    stem, norm = find_stem(backbone, (getattr(case.network.config, "pretrained_cfg", None) or {}).get("first_conv"))
    here: Any = backbone.get_submodule(stem)
    weight = case.tensors[f"{case.prefix}{stem}.weight"]
    theirs = case.source.input
    if anchor_input is not None and theirs is None:
        case.notes.append("input not stated: taken for the anchor's")
    anchor_input = anchor_input or theirs or InputConvention()
    matrix, offset = channel_map(theirs or anchor_input, anchor_input, weight.shape[1], here.in_channels)
    if not changes(matrix, offset):
        return
    before = case.own()
    place, norm_place = case.prefix + stem, None if norm is None else case.prefix + norm
    case.tensors = fold_into_stem(case.tensors, place, norm_place, matrix, offset, case.name)
    case.notes.append(_input_note(theirs, weight.shape[1], here.in_channels))
    if measured and bool(offset.any()) and max(here.padding if isinstance(here.padding, tuple) else (0,)) > 0:
        case.notes.append(f"its zero padding moves the features by {_border(case, before, matrix, offset):.2g}")


def _input_note(theirs: InputConvention | None, channels: int, anchor_channels: int) -> str:
    parts = []
    if theirs is not None:
        mean, std = (" ".join(f"{v:.3g}" for v in values) for values in (theirs.pixel_mean, theirs.pixel_std))
        parts.append(f"mean {mean}, std {std}")
        parts += ["BGR"] if theirs.channel_order == "bgr" else []
    if channels != anchor_channels:
        parts.append(f"{channels} channels" if channels > 1 else "1 channel, the luma of RGB")
    return f"input ({', '.join(parts)}) folded into the stem"


def _border(case: _Case, before: dict[str, Tensor], matrix: Tensor, offset: Tensor) -> float:
    """How far the folded network is from the source, which is exact but for the border of a padded stem."""
    below, stem = case.network.base_model_prefix, first_convolution(backbone_module(case.network))
    original = with_tensors(case.network, before, below, stem)
    images = _noise(*input_shape(case.network))
    theirs = torch.einsum("sa,nahw->nshw", matrix, images) + offset[:, None, None]
    return feature_difference(original, with_tensors(case.network, case.own(), below, stem), theirs, images)
