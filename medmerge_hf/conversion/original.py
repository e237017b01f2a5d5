"""A source's own network: where it can be had, and whether a module in memory is what its description rebuilds."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArchitectureMismatchError
from ..networks.backbone import backbone_module, backbone_prefix, backbone_state, head_modules, is_timm
from ..networks.build import LABEL_KEYS, build_network, input_shape, network_config
from ..networks.caches import clear_caches
from ..sources.reference import LoadedSource
from .arguments import differing_arguments
from .case import Case
from .input_folding import find_stems
from .native_names import in_memory
from .state_dict import find_prefix, several
from .verification import TOLERANCE, apply_variant, noise, with_tensors


# Of a transformers config, what says nothing about what the network computes.
SILENT_KEYS = {
    *(*LABEL_KEYS, "architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path"),
    *("pretrained_cfg", "global_pool", "use_cache", "output_attentions", "output_hidden_states", "return_dict"),
}


def original_of(case: Case) -> nn.Module | None:
    """The source's own network in float64, with its weights.

    Args:
        case: of empty tensors the network is empty too.

    Returns:
        The network; `None` where it is the anchor's or is not known.
    """
    source, made = case.source, case.original
    if case.like_anchor:
        return None
    if made is None and source.module is not None and not describes_itself(source.module):
        return quiet_copy(source.module) if can_run(source.module) and not case.empty else None
    if made is None and source.network_config and not _same_network(case):
        made = _from_config(source, case.empty)
    if made is None:
        if not source.reference.variant or case.empty:
            return None
        speaking = apply_variant(copy.deepcopy(case.network), case.variant, unfoldable=False)
        return with_tensors(speaking, case.own(), case.below, case.stems)
    made = apply_variant(made, case.variant, unfoldable=False)
    return made if case.empty else with_tensors(made, *_fitting(made, source))


def _from_config(source: LoadedSource, empty: bool) -> nn.Module:
    with torch.device("meta" if empty else "cpu"):
        made = build_network(network_config(source.network_config or {}, num_labels=2))
    return backbone_module(made) if is_timm(made) else made  # timm's own, whose names the source has


def _fitting(made: Any, source: LoadedSource) -> tuple[dict[str, Tensor], str, dict[str, str | None]]:
    """What a network takes of a source's tensors, and where: arguments of [`with_tensors`]."""
    tensors: Mapping[str, Tensor] = source.tensors
    if hasattr(made, "config"):
        tensors, _ = in_memory(made, tensors)
    prefix = find_prefix(tensors, made.state_dict())
    inside = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    shapes, stems = {name: tensor.shape for name, tensor in made.state_dict().items()}, find_stems(made)
    flexible = {f"{stem}.weight" for stem in stems}
    return {name: t for name, t in inside.items() if shapes.get(name) == t.shape or name in flexible}, "", stems


def can_run(module: nn.Module) -> bool:
    """Whether a module is more than a container."""
    return type(module).forward is not nn.Module.forward


def describes_itself(module: nn.Module) -> bool:
    """Whether a module says, as timm's and transformers' do, which network it is."""
    return hasattr(module, "config") or hasattr(module, "pretrained_cfg")


def quiet_copy(module: nn.Module) -> nn.Module:
    """A copy in float64 on the CPU, in eval mode."""
    clear_caches(module)
    return copy.deepcopy(module).cpu().double().eval()


def _same_network(case: Case) -> bool:
    """Whether the source's config describes the anchor's network under the anchor's names.

    A weights file has no config: the user names its architecture, and nothing is known of its names.
    """
    theirs, ours = case.source.network_config, case.network.config.to_dict()
    if theirs is None:
        return False
    if case.source.reference.loader == "file":
        return theirs.get("architecture") == ours.get("architecture")
    if set(case.pairs.values()) - {case.prefix + name for name in case.pairs}:
        return False
    if "architecture" in ours or "architecture" in theirs:
        arguments = [dict(config.get("model_args") or {}) for config in (theirs, ours)]
        for values in arguments:
            for key in ("in_chans", "img_size"):  # folded and resampled
                values.pop(key, None)
        return theirs.get("architecture") == ours.get("architecture") and arguments[0] == arguments[1]
    stated = network_config(theirs).to_dict()  # with its defaults
    return stated.get("model_type") == ours.get("model_type") and _speaking(stated) == _speaking(ours)


def _speaking(config: Any) -> Any:
    """What of a config decides what the network computes."""
    if not isinstance(config, Mapping):
        return list(config) if isinstance(config, tuple) else config
    return {key: _speaking(value) for key, value in config.items() if key not in SILENT_KEYS}


# A module in memory and what it says of itself


def check_description(source: LoadedSource, network: Any) -> bool:
    """Run a module in memory beside the network that is rebuilt of what it says of itself.

    timm notes the name of a network, but not the arguments that it was built with; a module may have been changed.

    Args:
        source: with a module; of others nothing is checked.
        network: the anchor's; the module may be like it though its description lacks the arguments.

    Returns:
        Whether the module was found to be like the anchor's network.

    Raises:
        ArchitectureMismatchError: the two compute other features; the message names the arguments.
    """
    module: Any = source.module
    if module is None or not describes_itself(module) or not source.network_config or not can_run(module):
        return False
    empty = next(network.parameters()).is_meta
    if not empty and _same_kind(source, network) and not _difference(module, network):
        return True
    rebuilt = build_network(network_config(source.network_config, num_labels=2))
    if _same_kind(source, rebuilt) and (problem := _difference(module, rebuilt)):
        raise ArchitectureMismatchError(f"Source {source.reference.id!r} {problem} {_way_out(module)}")
    return False


def _of_transformers(module: Any) -> bool:
    return hasattr(getattr(module, "config", None), "model_type")


def _same_kind(source: LoadedSource, network: Any) -> bool:
    """Whether the two may be compared. A base model of transformers has no head to stop before: its config is all."""
    if _of_transformers(source.module):
        return type(source.module) is type(network)
    return is_timm(network) and (source.network_config or {}).get("architecture") == network.config.architecture


def _difference(module: Any, network: Any) -> str:
    """In what a module differs from a network of the same description; empty where it does not."""
    copied = quiet_copy(module)
    original = backbone_module(copied) if _of_transformers(module) else copied
    theirs, ours, head = original.state_dict(), backbone_state(network), head_modules(network)
    tops = tuple(f"{name}." for name in head)
    shapes = [name for name, tensor in ours.items() if name not in theirs or theirs[name].shape != tensor.shape]
    floating = [name for name, tensor in theirs.items() if tensor.is_floating_point() and not name.startswith(tops)]
    known = backbone_module(network).state_dict().keys()
    more = [name for name in floating if name not in known]
    if shapes or more:
        found = "; ".join(
            [f"{several([*shapes, *more])} differ", *differing_arguments(original, backbone_module(network))]
        )
        return f"was built with other arguments than {_called(network)}: {found}."
    below = backbone_prefix(network).removesuffix(".")
    tensors = _lively({name: theirs[name] for name in floating})
    original.load_state_dict(tensors, strict=False)
    rebuilt = backbone_module(with_tensors(network, tensors, below))
    try:
        apart = _apart(original, rebuilt, head, noise(*input_shape(network)))
    except Exception as error:  # whatever a changed module raises on an image
        found = "; ".join([f"{type(error).__name__}: {error}", *differing_arguments(original, rebuilt)])
        return f"cannot be run beside {_called(network)} on an image of {input_shape(network)} ({found})."
    if apart < TOLERANCE:
        return ""
    found = "; ".join(differing_arguments(original, rebuilt)) or "its forward pass was changed"
    return (
        f"is not {_called(network)}: rebuilt with its weights it computes other features (relative difference "
        f"{apart:.2g}): {found}."
    )


def _lively(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of one value (branches that begin at zero, layer scales of 1e-6) varied: they would hide differences."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, tensor in tensors.items():
        constant = tensor.numel() > 0 and bool(tensor.min() == tensor.max())
        varied = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) if constant else 0
        found[name] = tensor.double().cpu() + varied
    return found


def _apart(original: nn.Module, rebuilt: nn.Module, head: Sequence[str], images: Tensor) -> float:
    """Largest relative difference of what reaches the heads of two networks."""
    theirs, ours = (_before_head(network, head, images) for network in (original, rebuilt))
    worst = 0.0
    for one, other in zip(theirs, ours, strict=False):
        if one.ndim == 4 and other.ndim == 2:  # not pooled, as of global_pool=""
            one = one.mean((2, 3))
        if one.shape != other.shape:
            return float("inf")
        worst = max(worst, float((one - other).abs().max() / one.abs().max().clamp_min(1e-12)))
    return worst if theirs and ours else float("inf")


@torch.no_grad()
def _before_head(network: nn.Module, head: Sequence[str], images: Tensor) -> list[Tensor]:
    seen: list[Tensor] = []
    modules = [module for name, module in network.named_modules() if name in head]
    hooks = [module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) for module in modules]
    output = network(images)
    for hook in hooks:
        hook.remove()
    return seen or [getattr(output, "logits", output)]


def _called(network: Any) -> str:
    if is_timm(network):
        return f"timm's {network.config.architecture} with its default arguments"
    return f"the {type(network).__name__} of its config"


def _way_out(module: Any) -> str:
    if _of_transformers(module):
        return "Put what was changed into its config, or merge the network as it was built."
    return (
        "timm does not note arguments: write them beside the weights, timm.models.save_for_hf(network, folder, "
        "model_config={'model_args': {...}}, safe_serialization=True), and name that folder."
    )
