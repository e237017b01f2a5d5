"""The sources of a merged network aligned: permutations that matching finds, applied to its differences and kept."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import AlignmentError, MedMergeError, SettingsError, StateError
from ..merging.merged_network import MergedNetwork
from ..networks.backbone import backbone_prefix
from ..networks.build import architecture_name, input_shape
from .channel_trace import Trace, trace
from .permutations import ALIGNMENTS, Alignment, align, apply_permutation


BATCH = 16
IMAGES = 128  # of the target, for activations


def align_sources(merged: MergedNetwork, method: Alignment, images: Any = None) -> None:
    """Permute the channels of the other sources onto the anchor's.

    Args:
        merged: not aligned yet; changed.
        method: `weights` or `activations`.
        images: of the target, for `activations`: `[N, C, H, W]` as the network takes them, or batches of a
            dataloader; the first 128 are used.

    Raises:
        AlignmentError: the network cannot be traced, or a permuted source computes something else.
        SettingsError: an unknown method, or activations without images.
        StateError: the sources are aligned already.
    """
    if merged.weights.permutation is not None:
        raise StateError("These sources are aligned already: align once, right after from_sources.")
    if method not in ALIGNMENTS:
        raise SettingsError(f"align={method!r} is not one of {', '.join(ALIGNMENTS)}.")
    if method == "activations" and images is None:
        raise SettingsError("align='activations' compares what channels respond to: give images of the target.")
    batches = _example(merged) if images is None else _batches(images)
    try:
        found = trace(merged.network, batches[0])
        permutations = align(merged.network, found, merged.source_tensors(), method, batches)
    except MedMergeError:
        raise
    except Exception as error:  # whatever a network raises in float64, on these images, with other weights
        raise AlignmentError(
            f"The sources of {architecture_name(merged.network)} cannot be aligned ({type(error).__name__}: {error}). "
            "Merge it with align=None."
        ) from error
    permute_sources(merged, torch.stack(permutations), found)


def permute_sources(merged: MergedNetwork, permutation: Tensor, found: Trace | None = None) -> None:
    """Reorder the sources by permutations that were found before.

    Args:
        merged: as its sources were attached; changed.
        permutation: `[S - 1, channels]`, int.
        found: the trace of its network, where there is one already.

    Raises:
        AlignmentError: they belong to another network.
    """
    anchor, *sources = merged.source_tensors()
    below, found = backbone_prefix(merged.network), found or trace(merged.network, _example(merged)[0])
    moved = [apply_permutation(found, below, source, flat) for source, flat in zip(sources, permutation, strict=True)]
    merged.weights.set_sources(anchor, moved)
    merged.statistics = [{name: new[name] for name in own} for own, new in zip(merged.statistics, moved, strict=True)]
    device = merged.weights.source_bias.device
    merged.weights.permutation = nn.Parameter(permutation.int().to(device), requires_grad=False)


def _example(merged: MergedNetwork) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, *input_shape(merged.network), generator=generator)]


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
