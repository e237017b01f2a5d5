"""Aligning the sources of a [`MedMergeModel`]: what [`alignment`] finds, applied to its differences and kept."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .alignment import ALIGNMENTS, Alignment, align, apply_permutation
from .errors import SettingsError, StateError
from .networks import backbone_prefix, input_shape
from .source_networks import source_tensors
from .tracing import Trace, trace


if TYPE_CHECKING:
    from .modeling_medmerge import MedMergeModel


BATCH = 16
IMAGES = 128  # of the target, for activations


def align_sources(model: "MedMergeModel", method: Alignment, images: Any) -> None:
    """What [`MedMergeModel.align`] does; arguments as there."""
    merge = model.merge
    if merge is None or merge.permutation is not None:
        what = "collapsed" if merge is None else "aligned already"
        raise StateError(f"This model is {what}: align right after from_sources.")
    if method not in ALIGNMENTS:
        raise SettingsError(f"align={method!r} is not one of {', '.join(ALIGNMENTS)}.")
    if method == "activations" and images is None:
        raise SettingsError("align='activations' compares what channels respond to: give images of the target.")
    batches = _example(model) if images is None else _batches(images)
    found = trace(model.network, batches[0])
    permutations = align(model.network, found, source_tensors(model), method, batches)
    permute_sources(model, torch.stack(permutations), found)
    model.config.align = {"method": method}


def permute_sources(model: "MedMergeModel", permutation: Tensor, found: Trace | None = None) -> None:
    """Reorder the sources of a model by permutations that were found before.

    Args:
        model: merging, as it was attached.
        permutation: `[S - 1, channels]`.
        found: the trace of its network, where there is one already.

    Raises:
        AlignmentError: they belong to another network.
    """
    anchor, *sources = source_tensors(model)
    below, found = backbone_prefix(model.network), found or trace(model.network, _example(model)[0])
    moved = [apply_permutation(found, below, source, flat) for source, flat in zip(sources, permutation, strict=True)]
    merge: Any = model.merge
    merge.set_sources(anchor, moved)
    merge.permutation = nn.Parameter(permutation.int().to(model.device), requires_grad=False)


def _example(model: "MedMergeModel") -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, *input_shape(model.network), generator=generator)]


def _batches(images: Any) -> list[Tensor]:
    """Tensors or batches of a dataloader -> batches of one size."""
    given: Iterable[Any] = [images] if isinstance(images, Tensor) else images
    tensors, count = [], 0
    for batch in given:
        pixels = batch["pixel_values"] if isinstance(batch, dict) else batch[0] if isinstance(batch, tuple) else batch
        tensors.append(pixels if pixels.ndim == 4 else pixels[None])
        count += len(tensors[-1])
        if count >= IMAGES:
            break
    if not tensors:
        raise SettingsError("align='activations' got no images.")
    every = torch.cat(tensors)[:IMAGES].float().cpu()
    size = min(BATCH, len(every))
    return [batch for batch in every.split(size) if len(batch) == size]
