"""Which channels of a network must be permuted together (torch only).

A *group* is a set of channels that one permutation reorders. An axis of a tensor is a list of *atoms*: group and
`inner`, the number of consecutive entries that move with each of its channels (the head size where attention heads are
permuted). Axes are found to be equal while a network is traced ([`channel_trace`]); a group may then be made of
others (a concatenation, heads), or not to be free at all.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


# Group and entries that move with each of its channels.
Atom = tuple[int, int]

# What an axis is made of; `None` is an axis whose order is fixed (images, pixels, tokens).
Axis = list[Atom] | None


# Group -> permutation: its entry i is the source's channel that takes the anchor's place i.
Permutations = dict[int, Tensor]


class ChannelGroups:
    """Groups of channels, merged and refined as a trace goes on.

    Example:
        >>> groups = ChannelGroups()
        >>> one, other = groups.new(8), groups.new(8)
        >>> groups.unify(one, other)
        >>> groups.resolve(one) == groups.resolve(other)
        True
    """

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.fixed: set[int] = set()
        self._refined: dict[int, list[Atom]] = {}

    def new(self, size: int) -> Axis:
        """An axis that is a group of its own."""
        self.sizes.append(size)
        return [(len(self.sizes) - 1, 1)]

    def resolve(self, axis: Axis) -> Axis:
        """An axis in terms of the groups that are known now."""
        if axis is None:
            return None
        found: list[Atom] = []
        for group, inner in axis:
            if group in self._refined:
                deeper = self.resolve(self._refined[group])
                found += [(part, factor * inner) for part, factor in deeper or []]
            else:
                found.append((group, inner))
        return found

    def fix(self, axis: Axis) -> None:
        """Nothing on this axis may be reordered."""
        for group, _ in self.resolve(axis) or []:
            self.fixed.add(group)

    def length(self, axis: Axis) -> int:
        """Entries along an axis."""
        return sum(self.sizes[group] * inner for group, inner in axis or [])

    def unify(self, one: Axis, other: Axis) -> None:
        """Two axes are reordered alike. One that cannot be is fixed; so is one that is paired with a fixed axis."""
        if one is None or other is None:
            self.fix(one)
            self.fix(other)
            return
        left, right = one, other
        while left and right:
            # A step may have refined a group that stands further on too, as in a concatenation of a group with itself.
            left, right = self.resolve(left) or [], self.resolve(right) or []
            (a, inner_a), (b, inner_b) = left[0], right[0]
            size_a, size_b = self.sizes[a] * inner_a, self.sizes[b] * inner_b
            if (a, inner_a) == (b, inner_b) or (size_a == size_b and self._join(a, inner_a, b, inner_b)):
                left, right = left[1:], right[1:]
            elif not (
                (size_a > size_b and self._cut(a, inner_a, size_b))
                or (size_b > size_a and self._cut(b, inner_b, size_a))
            ):
                self.fix(left)
                self.fix(right)
                return

    def _join(self, a: int, inner_a: int, b: int, inner_b: int) -> bool:
        """Let two groups of the same length be one, in the coarser of their two steps."""
        if a == b:
            return False
        if inner_a < inner_b:
            a, inner_a, b, inner_b = b, inner_b, a, inner_a
        if inner_a % inner_b:
            return False
        self._refined[b] = [(a, inner_a // inner_b)]
        if b in self.fixed:
            self.fixed.add(a)
        return True

    def _cut(self, group: int, inner: int, length: int) -> bool:
        """Make a group of two: its first channels, `length` entries, and the rest."""
        if length % inner:
            return False
        first = length // inner
        sizes = (first, self.sizes[group] - first)
        parts = [self.new(size) for size in sizes]
        self._refined[group] = [atom for part in parts for atom in part or []]
        if group in self.fixed:
            for part in parts:
                self.fix(part)
        return True

    def split(self, axis: Axis, sizes: Sequence[int]) -> list[Axis]:
        """The axes that an axis becomes when it is reshaped into several.

        Args:
            axis: what is reshaped.
            sizes: of the new axes, outermost first; their product is its length.

        Returns:
            An axis each. A group that is spread over two of them moves in whole steps of the last.
        """
        axis = self.resolve(axis)
        real = [place for place, size in enumerate(sizes) if size != 1]
        found: list[Axis] = [None] * len(sizes)
        if axis is None or len(real) <= 1:
            if axis is not None and real:
                found[real[0]] = axis
            return found
        if found_whole := self._whole_channels(axis, sizes):
            return found_whole
        *outer, heads, inner = [sizes[place] for place in real]
        count = math.prod(outer)
        if count > 1 or len(axis) > 1:  # queries, keys and values in one axis: each the same heads
            parts = [self.new(heads * inner) for _ in range(count)]
            self.unify(axis, [atom for part in parts for atom in part or []])
            for part in parts[1:]:
                self.unify(parts[0], part)
            axis = self.resolve(parts[0])
        group = self.new(heads)
        self.unify(axis, [(group[0][0], inner)])  # type: ignore[index]
        resolved = self.resolve(group) or []
        if len(resolved) == 1 and resolved[0][1] == 1:
            found[real[-2]] = resolved
        else:
            self.fix(group)
        return found

    def _whole_channels(self, axis: list[Atom], sizes: Sequence[int]) -> list[Axis]:
        """The axes of a group each of whose channels is a block of the last ones (weights of a filter, flattened)."""
        if len(axis) > 1 or axis[0][1] == 1:
            return []
        group, inner = axis[0]
        for place in range(1, len(sizes)):
            if math.prod(sizes[place:]) == inner:
                return [*self.split([(group, 1)], sizes[:place]), *[None] * (len(sizes) - place)]
        return []

    def merge(self, axes: Sequence[Axis], sizes: Sequence[int]) -> Axis:
        """The axis that several become when they are reshaped into one: the first is reordered, no other is."""
        labelled = [place for place, axis in enumerate(axes) if axis is not None and sizes[place] != 1]
        if not labelled:
            return None
        for other in labelled[1:]:
            self.fix(axes[other])
        place = labelled[0]
        outside, inner = math.prod(sizes[:place]), math.prod(sizes[place + 1 :])
        return [(group, factor * inner) for group, factor in self.resolve(axes[place]) or []] * outside


def reorder(axis: Axis, permutations: Mapping[int, Tensor], sizes: Sequence[int]) -> Tensor | None:
    """The index that reorders an axis.

    Args:
        axis: resolved.
        permutations: group -> permutation; groups without one stay as they are.
        sizes: of all groups.

    Returns:
        Old places in their new order; `None` where nothing moves.

    Example:
        >>> reorder([(0, 2)], {0: torch.tensor([1, 0])}, [2])
        tensor([2, 3, 0, 1])
    """
    if axis is None or not any(group in permutations for group, _ in axis):
        return None
    parts, start = [], 0
    for group, inner in axis:
        order = permutations.get(group, torch.arange(sizes[group]))
        parts.append(start + (order[:, None] * inner + torch.arange(inner)).flatten())
        start += sizes[group] * inner
    return torch.cat(parts)


def assign(likeness: Tensor, current: Tensor) -> tuple[Tensor, float]:
    """The permutation that pairs channels of the greatest likeness, and what it gains over the one there was.

    Args:
        likeness: `[n, n]`, the anchor's channels against the source's.
        current: `[n]`, a permutation.
    """
    from scipy.optimize import linear_sum_assignment

    rows = torch.arange(len(current))
    best = torch.from_numpy(linear_sum_assignment(likeness.double().numpy(), maximize=True)[1])
    return best, float(likeness[rows, best].sum() - likeness[rows, current].sum())
