"""A source's channels permuted onto the anchor's before the differences are formed (torch and scipy only).

A hidden channel has no name: networks of different initialisations hold similar features in different places.
*Weight matching* (Git Re-Basin, arXiv 2209.04836) pairs channels whose weights are alike, *activation matching* (Li et
al., arXiv 1511.07543; REPAIR, arXiv 2211.08403) those that respond alike to the target's images; both solve a linear
assignment for each group of channels that [`channel_trace`] finds. The permuted network computes the same function,
which is checked.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..errors import AlignmentError
from ..networks.backbone import backbone_prefix, second_names
from ..networks.caches import clear_caches
from .activation_matching import match_activations
from .channel_groups import Permutations, reorder
from .channel_trace import Trace
from .weight_matching import match_weights


Alignment = Literal["weights", "activations"]

ALIGNMENTS: tuple[str, ...] = get_args(Alignment)

# In float64: a right permutation only changes the order of sums (1e-15), a wrong one was seen at 8.6e-5.
TOLERANCE = 1e-9


def permute(tensors: Mapping[str, Tensor], found: Trace, permutations: Permutations) -> dict[str, Tensor]:
    """Reorder the channels of a network.

    Args:
        tensors: name -> parameter or buffer, by the names of the trace.
        found: the trace.
        permutations: of its groups; others stay.

    Returns:
        The tensors of a network that computes the same, its features reordered.
    """
    moved = {}
    for name, tensor in tensors.items():
        for dim, axis in enumerate(found.axes.get(name, [])):
            index = reorder(axis, permutations, found.groups.sizes)
            tensor = tensor if index is None else tensor.index_select(dim, index)
        moved[name] = tensor
    return moved


def align(
    network: Any,
    found: Trace,
    sources: Sequence[Mapping[str, Tensor]],
    method: Alignment,
    images: Sequence[Tensor],
) -> list[Tensor]:
    """Find the permutations that bring sources closest to the anchor.

    Args:
        network: a classifier.
        found: its trace.
        sources: anchor first: name below the backbone -> tensor, BatchNorm statistics included.
        method: `weights` or `activations`.
        images: batches `[N, C, H, W]` of one shape: of the target for `activations`; one of any kind for `weights`.

    Returns:
        A flat int32 tensor a source, see [`apply_permutation`].

    Raises:
        AlignmentError: nothing may be permuted, or a permuted source would compute something else.
    """
    if not found.free():
        raise AlignmentError(
            f"No channels of {type(network).__name__} may be permuted, as far as its trace tells. Merge it with "
            "align=None."
        )
    below = backbone_prefix(network)
    named = [{below + name: t for name, t in tensors.items()} for tensors in sources]
    match = match_weights if method == "weights" else lambda a, s, f: match_activations(a, s, f, images)
    results = [match(named[0], source, found) for source in named[1:]]
    for source, permutations in zip(named[1:], results, strict=True):
        check_permutation(network, source, found, permutations, images[0])
    return [torch.cat([_found_or_identity(p, g, found) for g in found.free()]).int() for p in results]


def _found_or_identity(permutations: Permutations, group: int, found: Trace) -> Tensor:
    """Also of a group that was not matched."""
    return permutations.get(group, torch.arange(found.groups.sizes[group]))


def apply_permutation(found: Trace, below: str, tensors: Mapping[str, Tensor], flat: Tensor) -> dict[str, Tensor]:
    """Reorder a source by what [`align`] found.

    Args:
        found: the trace of the network.
        below: as there.
        tensors: name below the backbone -> tensor.
        flat: all permutations of the trace's groups, one after the other.

    Returns:
        The tensors, reordered.

    Raises:
        AlignmentError: the permutation belongs to another network.
    """
    sizes = [found.groups.sizes[group] for group in found.free()]
    parts = flat.long().split(sizes) if sum(sizes) == len(flat) else ()
    if not parts or any(not torch.equal(part.sort()[0], torch.arange(len(part))) for part in parts):
        raise AlignmentError(
            f"The stored permutation holds {len(flat)} channels, the network has {sum(sizes)} in other groups: it was "
            "made for another network or by another version of its library."
        )
    named = {below + name: tensor for name, tensor in tensors.items()}
    moved = permute(named, found, dict(zip(found.free(), parts, strict=True)))
    return {name.removeprefix(below): tensor for name, tensor in moved.items()}


@torch.no_grad()
def check_permutation(
    network: nn.Module, tensors: Mapping[str, Tensor], found: Trace, permutations: Permutations, images: Tensor
) -> float:
    """Run a source before and after, a head on top that moves with it: the same logits.

    Args:
        network: the classifier that was traced.
        tensors: the source, by the network's names. What it lacks (a head) is drawn at random.
        found: the network's trace.
        permutations: to apply.
        images: `[N, C, H, W]`.

    Returns:
        The largest difference of a logit in float64, relative to the largest logit.

    Raises:
        AlignmentError: it is not below 1e-9.
    """
    clear_caches(network)
    made = copy.deepcopy(network).double().eval()
    state = _with_head(made, tensors)
    before, after = (_logits(made, given, images) for given in (state, permute(state, found, permutations)))
    difference = float((after - before).abs().max() / before.abs().max())
    if not difference < TOLERANCE:
        raise AlignmentError(
            f"A permuted source would compute other logits (relative difference {difference:.2g}): the channels of "
            f"{type(network).__name__} are not what its trace says. Merge it with align=None."
        )
    return difference


def _with_head(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A whole state dict in float64: a source, and numbers in the head that tell every feature apart."""
    generator = torch.Generator().manual_seed(0)
    learned, twice = {name for name, _ in network.named_parameters()}, second_names(network)
    state = {}
    for name, own in network.state_dict().items():
        if name in twice:
            continue
        if name in tensors:
            state[name] = tensors[name].to(own.dtype)
        else:
            drawn = name in learned and own.is_floating_point()
            state[name] = torch.randn(own.shape, generator=generator, dtype=own.dtype) if drawn else own
    return state


def _logits(network: nn.Module, state: Mapping[str, Tensor], images: Tensor) -> Tensor:
    network.load_state_dict({**state, **{again: state[first] for again, first in second_names(network).items()}})
    clear_caches(network)
    output = network(images.double())
    return getattr(output, "logits", output)
