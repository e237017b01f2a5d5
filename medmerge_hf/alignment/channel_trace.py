"""Follow a network's channels from one parameter to the next (torch only).

The network is exported to ATen operations, whatever library wrote it, and each operation says which axes of what it
takes are axes of what it gives ([`aten_rules`]). One that is not known there fixes the channels that go into it: fewer
can be permuted then, but none wrongly.
"""

import dataclasses
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from ..errors import AlignmentError
from ..networks.backbone import second_names
from .aten_rules import RULES, Axes
from .channel_groups import ChannelGroups


@dataclasses.dataclass
class Trace:
    """The channels of a network.

    Args:
        groups: all groups.
        axes: name of a parameter or buffer -> its axes.
        nodes: name of an intermediate result -> its axes, those with free channels alone.
        program: what was traced, to run again with other weights.
        twice: further name -> first name of tensors that stand in several places; axes has the first.
    """

    groups: ChannelGroups
    axes: dict[str, Axes]
    nodes: dict[str, Axes]
    program: Any
    twice: Mapping[str, str]

    def free(self) -> list[int]:
        """Groups that may be permuted, in the order of the parameters that they stand in."""
        found: dict[int, None] = {}
        for axes in self.axes.values():
            for axis in axes:
                found |= {group: None for group, _ in axis or []}
        return [group for group in found if group not in self.groups.fixed and self.groups.sizes[group] > 1]


class _Logits(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        output = self.network(images)
        return getattr(output, "logits", output)


def trace(network: nn.Module, images: Tensor) -> Trace:
    """Trace a network.

    Args:
        network: with a linear head; run in eval mode.
        images: `[N, C, H, W]`, an example. What is run again with the trace must have its shape.

    Returns:
        Its channels.

    Raises:
        AlignmentError: torch cannot export it, or its operations are not what the rules foresee.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 2))
        >>> found = trace(network, torch.zeros(2, 3, 8, 8))
        >>> [found.groups.sizes[group] for group in found.free()]
        [8, 4]
    """
    was_training = network.training
    try:
        program = torch.export.export(_Logits(network.eval()), (images,), strict=False)
    except Exception as error:  # whatever a network does that export cannot follow
        raise AlignmentError(
            f"{type(network).__name__} cannot be traced by torch.export ({str(error).splitlines()[0]}), so it cannot "
            "be aligned. Merge it with align=None."
        ) from error
    finally:
        network.train(was_training)
    try:
        return _Tracer(program, second_names(network)).run()
    except Exception as error:  # whatever a rule raises on an operation that it does not foresee
        raise AlignmentError(
            f"The channels of {type(network).__name__} cannot be followed ({type(error).__name__}: {error}). Merge it "
            "with align=None."
        ) from error


class _Tracer:
    def __init__(self, program: Any, twice: Mapping[str, str]) -> None:
        self.program, self.twice = program, twice
        self.groups = ChannelGroups()
        self.axes: dict[Node, Any] = {}

    def run(self) -> Trace:
        signature = self.program.graph_signature
        names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        # A table of coordinates, say: it is in no checkpoint, so nobody permutes it.
        unsaved = set(getattr(signature, "non_persistent_buffers", ()))
        names = {name: tensor for name, tensor in names.items() if tensor not in unsaved}
        tensors: dict[str, Axes] = {}
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self.axes[node] = self._placeholder(node, node.name in names)
                if node.name in names:
                    self._name(tensors, names[node.name].removeprefix("network."), self.axes[node])
            elif node.op == "call_function":
                self.axes[node] = self._call(node)
            elif node.op == "output":
                for given in node.all_input_nodes:
                    for axis in self.axes.get(given) or []:
                        self.groups.fix(axis)
        return self._finish(tensors)

    def _name(self, tensors: dict[str, Axes], name: str, axes: Axes) -> None:
        first = self.twice.get(name, name)
        for axis, other in zip(axes, tensors.setdefault(first, axes), strict=True):
            self.groups.unify(axis, other)

    def _finish(self, tensors: dict[str, Axes]) -> Trace:
        def resolved(axes: Any) -> Axes:
            found = []
            for axis in axes:
                axis = self.groups.resolve(axis)
                found.append(None if axis is None or all(g in self.groups.fixed for g, _ in axis) else axis)
            return found

        nodes = {n.name: resolved(axes) for n, axes in self.axes.items() if n.op == "call_function" and _plain(axes)}
        nodes = {name: axes for name, axes in nodes.items() if any(axes)}
        return Trace(
            self.groups, {name: resolved(axes) for name, axes in tensors.items()}, nodes, self.program, self.twice
        )

    def _placeholder(self, node: Node, owned: bool) -> Axes:
        value = node.meta["val"]
        if not isinstance(value, Tensor) or not owned or not value.is_floating_point():
            return [None] * getattr(value, "ndim", 0)
        return [self.groups.new(size) if size > 1 else None for size in value.shape]

    def _call(self, node: Node) -> Any:
        target = node.target
        if target is operator.getitem:
            inner = self.axes[node.args[0]]  # type: ignore[index]
            return inner[node.args[1]] if inner else []
        name = target.__name__.split(".")[0].removeprefix("_").rstrip("_")  # type: ignore[union-attr]
        rule = RULES.get(name)
        found = rule(self, node) if rule is not None else None
        if found is None:
            for given in node.all_input_nodes:
                self._fix(self.axes.get(given))
            return _unknown(node)
        return found

    def _fix(self, axes: Any) -> None:
        for axis in axes or []:
            if isinstance(axis, list) and axis and isinstance(axis[0], (list, type(None))):
                self._fix(axis)
            else:
                self.groups.fix(axis)


def _plain(axes: Any) -> bool:
    return bool(axes) and all(axis is None or isinstance(axis[0], tuple) for axis in axes if axis != [])


def _unknown(node: Node) -> Any:
    value = node.meta.get("val")
    if isinstance(value, (tuple, list)):
        return [[None] * getattr(part, "ndim", 0) for part in value]
    return [None] * getattr(value, "ndim", 0)
