"""A network that computes with a blend of several sources: its forward pass, its collapse, its sources.

It is a plain object. Who holds it (the model, a benchmark, a test) decides what is saved and how it is trained.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..errors import SettingsError, StateError
from ..networks.backbone import backbone_parameters, backbone_prefix, backbone_state, second_names
from ..networks.batch_norm import recalibrate_batch_norm
from ..networks.caches import cache_places, clear_caches
from .kernel_weights import KERNEL_WEIGHTS, KernelWeights, blend
from .parameter_swap import ParameterSwap


class MergedNetwork:
    """A frozen anchor, the kernel weights beside it, and what its other sources are made of.

    Args:
        network: the plain classifier; its backbone holds the anchor.
        weights: kernel weights and differences of the tensors that are merged.
        statistics: floating point buffers (BatchNorm statistics) of each other source, by names below the backbone.

    Attributes:
        recomputes: whether blocks are computed again in the backward pass (activation checkpointing).
    """

    def __init__(self, network: Any, weights: KernelWeights, statistics: Sequence[Mapping[str, Tensor]]) -> None:
        self.network, self.weights, self.statistics = network, weights, [dict(own) for own in statistics]
        self.recomputes = False
        self._blended: tuple[Tensor, list[Any], dict[str, Tensor]] | None = None
        self.bind(network)

    def bind(self, network: Any) -> None:
        """Compute with this network from now on (its modules were exchanged, its parameters are the same)."""
        self.network = network
        found = backbone_parameters(network)
        parameters = {name: found[name] for name in self.weights.names}
        self.swap = ParameterSwap(network, parameters, partial(clear_caches, network, cache_places(network)))

    def computing(self, network: Any, images: Tensor) -> Callable[..., Any]:
        """[`forward`], once it is known that the tensors are there.

        Args:
            network: of the model that is called.
            images: that it is called with.

        Raises:
            StateError: that is a replica (`DataParallel`), whose tensors are not the network's; or they are offloaded.
        """
        if self.network is not network:
            raise StateError("This is a replica of a merge (DataParallel): start one process a GPU, by `accelerate`.")
        if not images.is_meta and any(t.is_meta for t in (self.weights.source_bias, next(network.parameters()))):
            raise StateError(
                "The tensors of this merge are not in memory (offloaded, or on the meta device), and it computes with "
                "all of its sources at once. Call collapse() first, then offload the collapsed model."
            )
        return self.forward

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> Any:
        """The network's output with the merged tensors in the places of its own.

        Args:
            pixel_values: `[N, C, H, W]`.
            kwargs: of the network.

        """
        if torch.compiler.is_compiling():
            prefix, anchor = backbone_prefix(self.network), backbone_parameters(self.network)
            merged = {prefix + name: tensor for name, tensor in self.weights(anchor).items()}
            return functional_call(self.network, merged, (pixel_values,), kwargs)
        merged = self.tensors()
        if not (self.recomputes and torch.is_grad_enabled()):
            with self.swap.of(merged):
                return self.network(pixel_values, **kwargs)
        # Blocks are computed again in the backward pass: the merged tensors stay in their places until its end.
        self.swap.install(merged)
        output = self.network(pixel_values, **kwargs)
        logits = output[-1] if isinstance(output, tuple) else output.logits
        finish = torch.autograd.Variable._execution_engine.queue_callback
        logits.register_hook(lambda grad: finish(self.swap.restore))
        return output

    def tensors(self) -> dict[str, Tensor]:
        """Name below the backbone -> merged tensor; without gradients only blended where something changed."""
        anchor = self.swap.parameters()
        if torch.is_grad_enabled():
            self._blended = None
            return self.weights(anchor)
        learned = self.weights.source_bias.detach()
        frozen = [(t.data_ptr(), t._version) for t in (*anchor.values(), *self.weights.differences.parameters())]
        if self._blended is None or self._blended[1] != frozen or not _equal(self._blended[0], learned):
            self._blended = (learned.clone(), frozen, self.weights(anchor))
        return self._blended[2]

    @torch.no_grad()
    def collapse(self, batches: Iterable[Any] | None = None) -> None:
        """Write the merge into the network, which learns as a whole from then on. All or nothing.

        Args:
            batches: training batches of the target, to estimate BatchNorm statistics on (see
                [`recalibrate_batch_norm`]). Without them those of the network stay.

        Raises:
            StateError: a merged tensor is not finite.
        """
        merged = self.weights(self.swap.parameters())
        bad = next((name for name, tensor in merged.items() if not torch.isfinite(tensor).all()), None)
        if bad is not None:
            raise StateError(f"The merge of {bad} holds NaN or infinity: lower kernel_learning_rate and merge again.")
        buffers = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        try:
            with self.swap.of(merged):
                if batches is not None:
                    recalibrate_batch_norm(self.network, batches)
        except BaseException:  # Ctrl-C too: the caller still has its merge
            for name, buffer in self.network.named_buffers():
                buffer.copy_(buffers[name])
            raise
        for name, parameter in backbone_parameters(self.network).items():
            if name in merged:
                parameter.copy_(merged[name])
            parameter.requires_grad_(True)

    def small_state(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of a model's state dict, what cannot be had from the sources again: kernel weights, head, buffers."""
        frozen = set(self.source_names())
        return {name: t.detach().cpu().clone() for name, t in with_values(state_dict).items() if name not in frozen}

    # The sources

    def source_names(self) -> list[str]:
        """Names in a model's state dict of what comes from the sources and never changes while merging."""
        backbone = [f"network.{backbone_prefix(self.network)}{name}" for name in self.weights.names]
        return backbone + [f"merge.{name}" for name, _ in self.weights.named_parameters() if "differences." in name]

    def source_tensors(self) -> list[dict[str, Tensor]]:
        """Floating point tensors of every source by their names below the backbone, anchor first.

        Returns:
            Name -> float32 tensor on the CPU, a dict a source; BatchNorm statistics are the source's own.
        """
        anchor = {name: tensor.detach().cpu().float() for name, tensor in backbone_state(self.network).items()}
        sources = [anchor]
        for differences, statistics in zip(self.weights.differences, self.statistics, strict=True):
            pairs = zip(self.weights.names, differences.parameters(), strict=True)
            own = {name: anchor[name] + d.detach().cpu().float() for name, d in pairs}
            sources.append({**anchor, **statistics, **own})
        return sources


def with_values(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The same tensors, if they are in memory.

    Raises:
        StateError: one is on the meta device.

    Example:
        >>> with_values({"weight": torch.zeros(2)})
        {'weight': tensor([0., 0.])}
    """
    empty = next((name for name, tensor in tensors.items() if tensor.is_meta), None)
    if empty is not None:
        raise StateError(
            f"{empty} has no values: it is on the meta device. Leave init_empty_weights and torch.device('meta') for "
            "MedMergeModel(config) alone; of an offloaded model, call accelerate's remove_hook_from_module(model, "
            "recurse=True) first."
        )
    return tensors


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.device == other.device and torch.equal(one, other)


@torch.no_grad()
def plain_copy(
    network: Any, weights: KernelWeights | None, state_dict: Mapping[str, Tensor], share: bool = False
) -> Any:
    """A copy of a network on the CPU that holds the merge of a model's state dict.

    The live parameters are not read: a trainer may have gathered the state dict from several processes.

    Args:
        network: the plain network of a model.
        weights: its kernel weights, while it is merging.
        state_dict: of the model, in either state: `network.*` and `merge.*`.
        share: take the tensors of the state dict where they lie on the CPU, for a copy that nobody trains.

    Returns:
        A plain classifier, all parameters learning.

    Raises:
        StateError: the state dict is of another network.
    """
    tensors = {name.removeprefix("network."): t for name, t in state_dict.items() if name.startswith("network.")}
    if weights is not None:
        prefix = backbone_prefix(network)
        for index, (name, weight) in enumerate(weights.split(state_dict[KERNEL_WEIGHTS].cpu()).items()):
            stack = [state_dict[f"merge.differences.{source}.{index}"].cpu() for source in range(len(weight))]
            tensors[prefix + name] = blend(tensors[prefix + name].cpu(), weight, stack)
    tensors |= {again: tensors[first] for again, first in second_names(network).items()}
    if stray := sorted(tensors.keys() ^ network.state_dict().keys()):
        raise StateError(f"The state dict is of another network: {stray[0]} is in one of the two alone.")
    clear_caches(network)
    return copy.deepcopy(network, _new_tensors(network, tensors, share)).requires_grad_(True)


def _new_tensors(network: Any, tensors: Mapping[str, Tensor], share: bool) -> dict[int, Any]:
    """What `copy.deepcopy` takes for each parameter and buffer; one with two names stays one."""

    def own(name: str, old: Tensor) -> Tensor:
        new = tensors.get(name, old).detach().to("cpu", old.dtype)  # buffers may be none of the state
        return new if share else new.clone()

    found: dict[int, Any] = {id(p): nn.Parameter(own(name, p), False) for name, p in network.named_parameters()}
    return found | {id(buffer): own(name, buffer) for name, buffer in network.named_buffers()}


def matching(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """The names that one of the patterns (`layer3.*`, `*.bias`) fits.

    Raises:
        SettingsError: a pattern that fits none.
    """
    names = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise SettingsError(f"The pattern {pattern!r} fits no tensor; they are called {names[0]}, {names[1]}, ...")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def merged_parameters(network: Any, include: Sequence[str], exclude: Sequence[str]) -> dict[str, nn.Parameter]:
    """Name -> parameter of the backbone that takes part in the merge.

    Args:
        network: a plain classifier.
        include: patterns of the tensors that are merged; all where there are none.
        exclude: patterns of those that stay the anchor's all the same.

    Raises:
        SettingsError: a pattern fits nothing, or nothing is left.
    """
    found = backbone_parameters(network)
    chosen = set(matching(found, include) if include else found)
    chosen -= set(matching(found, exclude))
    if not chosen:
        raise SettingsError(f"include={list(include)} and exclude={list(exclude)} leave nothing to merge.")
    return {name: parameter for name, parameter in found.items() if name in chosen}
