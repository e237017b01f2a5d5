"""A source's channels permuted onto the anchor's before the differences are formed (torch and scipy only).

A hidden channel has no name: networks of different initialisations hold similar features in different places.
*Weight matching* (Git Re-Basin, arXiv 2209.04836) pairs channels whose weights are alike, *activation matching* (Li et
al., arXiv 1511.07543; REPAIR, arXiv 2211.08403) those that respond alike to the target's images; both solve a linear
assignment for each group of channels that [`tracing`] finds. The permuted network computes the same function, which is
checked.
"""

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from .channels import Axis, reorder
from .errors import AlignmentError
from .networks import backbone_prefix
from .proof import features
from .tracing import Trace


Alignment = Literal["weights", "activations"]
ALIGNMENTS: tuple[str, ...] = get_args(Alignment)
# Group -> permutation: its entry i is the source's channel that takes the anchor's place i.
Permutations = dict[int, Tensor]
SWEEPS = 4
LEAST_GAIN = 1e-3  # of the largest likeness, a channel; less is not worth another sweep
POSITIONS = 512  # of an intermediate result and batch, drawn for the correlation of its channels
NODES = 4  # intermediate results a group
TIE = 1e-4  # of a correlation
TOLERANCE = 1e-4


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
    waiting = set(places)
    for _ in range(SWEEPS):
        now, waiting = waiting, set()
        for group in (group for group in places if group in now):
            likeness = _weight_likeness(group, places[group], anchor, source, found, permutations)
            better, gain = _assign(likeness, permutations[group])
            if gain > LEAST_GAIN * float(likeness.abs().max()) * len(better):
                permutations[group] = better
                waiting |= beside[group]
    return permutations


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
    permutations: Permutations,
) -> Tensor:
    """`[n, n]`: inner products of the anchor's and the source's weights a channel, each tensor at unit norm."""
    size = found.groups.sizes[group]
    likeness = torch.zeros(size, size)
    for name, dim in places:
        ours, theirs = anchor[name], source[name]
        for other, axis in enumerate(found.axes[name]):
            own = {g: p for g, p in permutations.items() if other != dim or g != group}
            index = reorder(axis, own, found.groups.sizes)
            theirs = theirs if index is None else theirs.index_select(other, index)
        scale = ours.norm() * theirs.norm()
        if scale == 0:
            continue
        entries = ours.numel() / size
        for one, two in zip(_rows(ours, dim, group, found, name), _rows(theirs, dim, group, found, name), strict=True):
            likeness += one @ two.T / scale * entries**0.5
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


def _assign(likeness: Tensor, current: Tensor) -> tuple[Tensor, float]:
    from scipy.optimize import linear_sum_assignment

    rows = torch.arange(len(current))
    best = torch.from_numpy(linear_sum_assignment(likeness.double().numpy(), maximize=True)[1])
    return best, float(likeness[rows, best].sum() - likeness[rows, current].sum())


def match_activations(
    anchor: Mapping[str, Tensor],
    source: Mapping[str, Tensor],
    found: Trace,
    batches: Iterable[Tensor],
) -> Permutations:
    """Permutations under which a source's channels respond most like the anchor's.

    Args:
        anchor: name -> parameter or buffer, BatchNorm statistics included.
        source: likewise.
        found: the trace of their network.
        batches: images, each batch of the traced shape.

    Returns:
        A permutation a group.
    """
    watched = _watched(found)
    likeness = {g: torch.zeros(found.groups.sizes[g], found.groups.sizes[g]) for g in watched}
    names = {name for nodes in watched.values() for name, _ in nodes}
    for batch in batches:
        ours, theirs = (_run(found, tensors, batch, names) for tensors in (anchor, source))
        for group, nodes in watched.items():
            for name, dim in nodes:
                axis = found.nodes[name][dim]
                likeness[group] += _correlation(ours[name], theirs[name], axis, dim, group, found.groups.sizes)
    # Channels that never respond are like no other: where nothing says more, a channel keeps its place.
    kept = {g: matrix + TIE * torch.eye(len(matrix)) for g, matrix in likeness.items()}
    return {g: _assign(matrix, torch.arange(len(matrix)))[0] for g, matrix in kept.items()}


# Results of these say what a channel means; those of others are the same again, or raw sums.
TELLING = ("relu", "gelu", "silu", "hard", "add", "batch_norm", "layer_norm", "linear", "conv")


def _watched(found: Trace) -> dict[int, list[tuple[str, int]]]:
    """Group -> intermediate results (and dimension) in which it is looked at."""
    free = set(found.free())
    places: dict[int, list[tuple[int, str, int]]] = defaultdict(list)
    for name, axes in found.nodes.items():
        rank = next((i for i, word in enumerate(TELLING) if name.startswith(word)), None)
        labelled = [dim for dim, axis in enumerate(axes) if axis is not None]
        if rank is None or len(labelled) != 1:
            continue
        for group in {group for group, _ in axes[labelled[0]] or []} & free:
            places[group].append((rank, name, labelled[0]))
    chosen = {}
    for group, nodes in places.items():
        best = [node for node in nodes if (node[0] < 6) == (min(nodes)[0] < 6)]
        step = max(1, len(best) // NODES)
        chosen[group] = [(name, dim) for _, name, dim in best[::step][:NODES]]
    return chosen


class _Recorder(torch.fx.Interpreter):
    """Runs a traced network and keeps copies of some intermediate results; in-place operations overwrite them."""

    def __init__(self, module: Any, names: set[str]) -> None:
        super().__init__(module)
        self.names, self.kept = names, {}  # type: ignore[var-annotated]

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        if n.name in self.names:
            self.kept[n.name] = result.clone()
        return result


@torch.no_grad()
def _run(found: Trace, tensors: Mapping[str, Tensor], images: Tensor, names: set[str]) -> dict[str, Tensor]:
    program = found.program
    signature = program.graph_signature
    own = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    inputs = []
    for node in program.graph.nodes:
        if node.op != "placeholder":
            continue
        if node.name in own:
            name = own[node.name].removeprefix("network.")
            inputs.append(tensors[name] if name in tensors else _stored(program, own[node.name]))
        elif node.name in signature.inputs_to_lifted_tensor_constants:
            inputs.append(program.constants[signature.inputs_to_lifted_tensor_constants[node.name]])
        else:
            inputs.append(images)
    recorder = _Recorder(program.graph_module, names)
    recorder.run(*inputs)
    return recorder.kept


def _stored(program: Any, name: str) -> Tensor:
    return program.state_dict[name] if name in program.state_dict else program.constants[name]


def _correlation(ours: Tensor, theirs: Tensor, axis: Axis, dim: int, group: int, sizes: Sequence[int]) -> Tensor:
    """`[n, n]`: Pearson correlation of channels over images and positions."""
    one, two = _standardised(ours, dim), _standardised(theirs, dim)
    result, start = torch.zeros(sizes[group], sizes[group]), 0
    for part, inner in axis or []:
        length = sizes[part] * inner
        if part == group:
            a, b = (t[start : start + length].reshape(sizes[group], -1) for t in (one, two))
            result += a @ b.T / a.shape[1]
        start += length
    return result


def _standardised(tensor: Tensor, dim: int) -> Tensor:
    """`[channels, positions]`, each channel of mean 0 and standard deviation 1; a dead one is 0."""
    values = tensor.movedim(dim, 0).flatten(1).float()
    if values.shape[1] > POSITIONS:
        generator = torch.Generator().manual_seed(0)  # the same positions of both networks
        values = values[:, torch.randperm(values.shape[1], generator=generator)[:POSITIONS]]
    values = values - values.mean(1, keepdim=True)
    return values / values.std(1, keepdim=True).clamp_min(1e-6)


def align(
    network: Any,
    found: Trace,
    sources: Sequence[Mapping[str, Tensor]],
    method: Alignment,
    images: Sequence[Tensor],
) -> list[Tensor]:
    """Find the permutations that bring sources closest to the anchor.

    Args:
        network: a classifier with a linear head.
        found: its trace.
        sources: anchor first: name below the backbone -> tensor, BatchNorm statistics included.
        method: `weights` or `activations`.
        images: batches `[N, C, H, W]` of one shape: of the target for `activations`; one of any kind for `weights`.

    Returns:
        A flat int32 tensor a source, see [`apply_permutation`].

    Raises:
        AlignmentError: a permuted source would compute something else.
    """
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
    """Run a network before and after: the same features, reordered.

    Args:
        network: a classifier with a linear head.
        tensors: the source, by the network's names.
        found: its trace.
        permutations: to apply.
        images: `[N, C, H, W]`.

    Returns:
        The largest difference of a feature, relative to the largest feature.

    Raises:
        AlignmentError: it is above 1e-4.
    """
    before, after = (_features(network, given, images) for given in (tensors, permute(tensors, found, permutations)))
    index = reorder(found.output[-1], permutations, found.groups.sizes)
    before = before if index is None else before.index_select(-1, index)
    difference = float((after - before).abs().max() / before.abs().max().clamp_min(1e-12))
    if not difference < TOLERANCE:
        raise AlignmentError(
            f"A permuted source would compute other features (relative difference {difference:.2g}): the channels of "
            f"{type(network).__name__} are not what its trace says. Merge it with align=None."
        )
    return difference


def _features(network: nn.Module, tensors: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """The input of the last linear layer, of a copy in float64."""
    made = copy.deepcopy(network).double()
    made.load_state_dict({name: tensor.double() for name, tensor in tensors.items()}, strict=False)
    return features(made, images.double())[0]
