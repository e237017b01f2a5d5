"""Channels matched by what they respond to (activation matching, arXiv 1511.07543)."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .channel_groups import Axis, Permutations, assign
from .channel_trace import Trace


POSITIONS = 512  # of an intermediate result and batch, drawn for the correlation of its channels

NODES = 4  # intermediate results a group

TIE = 1e-4  # of a correlation


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
    return {g: assign(matrix, torch.arange(len(matrix)))[0] for g, matrix in kept.items()}


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
            name = found.twice.get(name, name)
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
