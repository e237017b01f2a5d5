"""The ordinary timm / transformers networks that a merge starts from and ends as, in two parts: backbone and head.

Names of the backbone are timm's own, or those of a whole transformers classifier: there trained layers may stand
outside the base model (the last norm of PoolFormer, CvT, SwiftFormer), or no base model at all (CLIP, HGNetV2).
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .caches import clear_caches


TIMM = "timm_model"


def is_timm(network: Any) -> bool:
    """Whether a classifier wraps one of timm's."""
    return network.config.model_type == "timm_wrapper"


def backbone_prefix(network: Any) -> str:
    """What the names of the backbone's tensors begin with inside the network, with its dot; transformers' nothing."""
    return f"{TIMM}." if is_timm(network) else ""


def backbone_module(network: Any) -> nn.Module:
    """timm's own network, or the whole of a transformers one; either with its head."""
    return getattr(network, TIMM) if is_timm(network) else network


def head_modules(network: Any) -> tuple[str, ...]:
    """Names, below the backbone, of the modules that make up the classification head.

    timm states them. In a transformers network they are those whose parameters have another shape for another number
    of classes.
    """
    if is_timm(network):
        names = (network.config.pretrained_cfg or {}).get("classifier") or ()
        return (names,) if isinstance(names, str) else tuple(names)
    found = network.__dict__.get("_head_modules")
    if found is None:
        found = network._head_modules = _modules_of_labels(network)
    return found


def _modules_of_labels(network: Any) -> tuple[str, ...]:
    config = copy.deepcopy(network.config)
    config.num_labels = network.config.num_labels + 1
    with torch.device("meta"):
        other = dict(type(network)(config).named_parameters())
    changed = [name for name, p in network.named_parameters() if p.shape != other[name].shape]
    return tuple(dict.fromkeys(name.rpartition(".")[0] for name in changed))


def _outside_head(network: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
    head = tuple(f"{name}." for name in head_modules(network))
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(head)}


def backbone_parameters(network: Any) -> dict[str, nn.Parameter]:
    """Name -> parameter of the backbone, the head left out; one that has two names by its first."""
    return _outside_head(network, dict(backbone_module(network).named_parameters()))


def head_biases(network: Any) -> list[nn.Parameter]:
    """Biases of the head, one number a class: of one layer, or of both heads of a distilled DeiT."""
    head, classes = tuple(f"{name}." for name in head_modules(network)), (network.config.num_labels,)
    named = backbone_module(network).named_parameters()
    return [bias for name, bias in named if name.startswith(head) and bias.shape == classes]


def backbone_learns(network: Any) -> bool:
    """Whether any parameter of the backbone is trained."""
    return any(parameter.requires_grad for parameter in backbone_parameters(network).values())


def backbone_buffers(network: Any) -> dict[str, Tensor]:
    """Name -> buffer of the backbone that is part of its state dict."""
    backbone = backbone_module(network)
    saved = backbone.state_dict().keys()
    return _outside_head(network, {name: buffer for name, buffer in backbone.named_buffers() if name in saved})


def is_bound(buffer: Tensor) -> bool:
    """Whether a buffer is one infinite number: a bound that clips nothing (Gemma's `input_min`), no broken statistic.

    Example:
        >>> is_bound(torch.tensor(-torch.inf)), is_bound(torch.tensor([torch.inf, 1.0]))
        (True, False)
    """
    return buffer.numel() == 1 and not buffer.is_meta and bool(torch.isinf(buffer).all())


def backbone_state(network: Any) -> dict[str, Tensor]:
    """Name -> floating point parameter or buffer of the backbone, the head left out, in order of definition."""
    tensors = {name: t for name, t in backbone_module(network).state_dict().items() if t.is_floating_point()}
    twice = second_names(backbone_module(network))
    return {name: t for name, t in _outside_head(network, tensors).items() if name not in twice}


def second_names(module: nn.Module) -> dict[str, str]:
    """Further name -> first name of tensors that stand in several places of a module (shared position biases).

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> second_names(nn.Sequential(layer, nn.ReLU(), layer))
        {'2.weight': '0.weight', '2.bias': '0.bias'}
    """
    first: dict[int, str] = {}
    return {
        name: first[id(tensor)]
        for name, tensor in module.state_dict(keep_vars=True).items()
        if first.setdefault(id(tensor), name) != name
    }


def load_backbone(network: Any, tensors: Mapping[str, Tensor]) -> None:
    """Copy converted tensors into a network's backbone; its head stays as it is."""
    backbone_module(network).load_state_dict(tensors, strict=False)
    clear_caches(network)
