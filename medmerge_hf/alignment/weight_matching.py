"""Channels matched by their weights (Git Re-Basin, arXiv 2209.04836)."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .channel_groups import Permutations, assign, reorder
from .channel_trace import Trace


SWEEPS = 4

LEAST_GAIN = 1e-3  # of the largest likeness, a channel; less is not worth another sweep


def match_weights(anchor: Mapping[str, Tensor], source: Mapping[str, Tensor], found: Trace) -> Permutations:
    """Permutations under which a source's weights are most like the anchor's: coordinate ascent over the groups.

    The first sweep goes from the image to the features, since the image's channels need no matching; later ones take
    up the groups beside those that changed.

    Args:
        anchor: name -> parameter.
        source: likewise.
        found: the trace of their network.

    Returns:
        A permutation a group.
    """
    places = _places(found, anchor)
    permutations = {group: torch.arange(found.groups.sizes[group]) for group in places}
    beside = _beside(found, places)
    scales = {name: float(anchor[name].norm() * source[name].norm()) for name in found.axes if name in anchor}
    moved = dict(source)  # as the permutations have it so far
    waiting = set(places)
    for _ in range(SWEEPS):
        now, waiting = waiting, set()
        for group in (group for group in places if group in now):
            likeness = _weight_likeness(group, places[group], anchor, moved, found, scales)
            better, gain = assign(likeness, torch.arange(len(likeness)))
            if gain > LEAST_GAIN * float(likeness.abs().max()) * len(better):
                permutations[group] = permutations[group][better]
                _move(moved, group, places[group], better, found)
                waiting |= beside[group]
    return permutations


def _move(
    tensors: dict[str, Tensor], group: int, places: Sequence[tuple[str, int]], order: Tensor, found: Trace
) -> None:
    for name, dim in places:
        index = reorder(found.axes[name][dim], {group: order}, found.groups.sizes)
        if index is not None:
            tensors[name] = tensors[name].index_select(dim, index)


def _beside(found: Trace, places: Mapping[int, Sequence[tuple[str, int]]]) -> dict[int, set[int]]:
    """Group -> groups that share a tensor with it."""
    held = {name: {g for axis in axes for g, _ in axis or []} & places.keys() for name, axes in found.axes.items()}
    return {group: set().union(*(held[name] for name, _ in own)) - {group} for group, own in places.items()}


def _places(found: Trace, tensors: Mapping[str, Tensor]) -> dict[int, list[tuple[str, int]]]:
    """Group -> name and dimension of the parameters that it stands in."""
    free, places = set(found.free()), defaultdict(list)
    for name in tensors:
        for dim, axis in enumerate(found.axes.get(name, [])):
            for group in dict.fromkeys(group for group, _ in axis or []):
                if group in free:
                    places[group].append((name, dim))
    return dict(places)


def _weight_likeness(
    group: int,
    places: Sequence[tuple[str, int]],
    anchor: Mapping[str, Tensor],
    source: Mapping[str, Tensor],
    found: Trace,
    scales: Mapping[str, float],
) -> Tensor:
    """`[n, n]`: inner products of the anchor's and the source's weights a channel, each tensor at unit norm."""
    size = found.groups.sizes[group]
    likeness = torch.zeros(size, size)
    for name, dim in places:
        if scales[name] == 0:
            continue
        weight = (anchor[name].numel() / size) ** 0.5 / scales[name]
        rows = (_rows(tensors[name], dim, group, found, name) for tensors in (anchor, source))
        for one, two in zip(*rows, strict=True):
            likeness.addmm_(one, two.T, alpha=weight)
    return likeness


def _rows(tensor: Tensor, dim: int, group: int, found: Trace, name: str) -> list[Tensor]:
    """The parts of a tensor that a group reorders, each `[channels, rest]`."""
    tensor, start, parts = tensor.movedim(dim, 0), 0, []
    for part, inner in found.axes[name][dim] or []:
        length = found.groups.sizes[part] * inner
        if part == group:
            parts.append(tensor[start : start + length].reshape(found.groups.sizes[part], -1))
        start += length
    return parts
