"""What a source expects otherwise than the anchor, folded into its weights: BatchNorm's eps, the images."""

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import ArchitectureMismatchError
from ..networks.build import architecture_name, input_shape
from ..networks.features import feature_difference
from ..networks.input_convention import InputConvention
from .case import Case
from .input_folding import changes, channel_map, fold_into_stem
from .verification import TOLERANCE, noise, with_tensors


# Relative difference of features that folded weights, rounded to float32, may make in a deep network.
ROUNDING = 1e-3


def fold_eps(case: Case) -> None:
    """Where BatchNorm has another eps, change its scale: exact with the source's statistics, and kept by the merge.

    Args:
        case: changed.

    Raises:
        ArchitectureMismatchError: it has no statistics.
    """
    folded = set()
    for name, module in case.backbone.named_modules():
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


def _source_eps(case: Case, norm: str) -> float | None:
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


def fold_input(case: Case, anchor_input: InputConvention | None) -> None:
    """Let a source take the anchor's images.

    Args:
        case: changed.
        anchor_input: what the anchor is given; by default what the source is given.

    Raises:
        ArchitectureMismatchError: its images differ from the anchor's in a way that its weights cannot take up.
    """
    theirs, here = case.source.input, input_shape(case.network)[0]
    if anchor_input is not None and theirs is None:
        case.notes.append("input not stated: taken for the anchor's")
    anchor_input = anchor_input or theirs or InputConvention()
    matrix, offset = channel_map(theirs or anchor_input, anchor_input, case.channels, here)
    if not changes(matrix, offset):
        return
    if not case.stems:
        raise ArchitectureMismatchError(
            f"Source {case.name!r} expects other images than the anchor, and no convolution of "
            f"{architecture_name(case.network)} sees the image as it is (it is cut or folded before), so the "
            "difference cannot be folded into its weights. Merge sources of one normalisation."
        )
    before, channels = case.own(), case.channels
    _fold(case, matrix, offset)
    case.notes.append(_input_note(theirs, channels, here))
    if not case.empty:
        _prove(case, before, matrix, offset)


def _fold(case: Case, matrix: Tensor, offset: Tensor) -> None:
    for stem, norm in case.stems.items():
        place, norm_place = case.prefix + stem, None if norm is None else case.prefix + norm
        case.tensors = fold_into_stem(case.tensors, place, norm_place, matrix, offset, case.name)


def _input_note(theirs: InputConvention | None, channels: int, anchor_channels: int) -> str:
    parts = []
    if theirs is not None:
        mean, std = (" ".join(f"{v:.3g}" for v in values) for values in (theirs.pixel_mean, theirs.pixel_std))
        parts.append(f"mean {mean}, std {std}")
        parts += ["BGR"] if theirs.channel_order == "bgr" else []
    if channels != anchor_channels:
        parts.append(f"{channels} channels" if channels > 1 else "1 channel, the luma of RGB")
    return f"input ({', '.join(parts)}) folded into the stem"


def _prove(case: Case, before: dict[str, Tensor], matrix: Tensor, offset: Tensor) -> None:
    """Run the source before and after the fold: only a border padded with zeros may differ, and only by the offset."""
    apart = _apart(case, before, matrix, offset)
    if apart < TOLERANCE:
        return
    folded = case.tensors
    case.tensors = {**folded, **{case.prefix + name: tensor for name, tensor in before.items()}}
    nothing = torch.zeros_like(offset)
    _fold(case, matrix, nothing)
    alone = _apart(case, before, matrix, nothing)
    case.tensors = folded
    if not alone < ROUNDING:
        raise ArchitectureMismatchError(
            f"Source {case.name!r} expects other images than the anchor, and {architecture_name(case.network)} does "
            f"not see them through {', '.join(case.stems)} alone: folded, its features differ by {alone:.2g}. Merge "
            "sources of one normalisation."
        )
    case.notes.append(f"its zero padding moves the features by {apart:.2g}")


def _apart(case: Case, before: dict[str, Tensor], matrix: Tensor, offset: Tensor) -> float:
    """How far the folded network is from the source."""
    images = noise(*input_shape(case.network))
    theirs = torch.einsum("sa,nahw->nshw", matrix, images) + offset[:, None, None]
    original, folded = (
        with_tensors(case.network, tensors, case.below, case.stems) for tensors in (before, case.own())
    )
    return feature_difference(original, folded, theirs, images)
