"""The ordinary timm / transformers networks that a merge starts from and ends as."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def backbone_prefix(network: Any) -> str:
    """What the names of the backbone's tensors begin with inside the network, with its dot."""
    return f"{network.base_model_prefix}."


def head_modules(network: Any) -> tuple[str, ...]:
    """Names, below the backbone, of the modules that make up a timm network's classification head.

    A transformers-native head stands beside the backbone, so nothing below it.
    """
    names = (getattr(network.config, "pretrained_cfg", None) or {}).get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def backbone_module(network: Any) -> nn.Module:
    """timm's own network, or the base model of a transformers one."""
    return getattr(network, network.base_model_prefix)


def backbone_parameters(network: Any) -> dict[str, nn.Parameter]:
    """Name -> parameter of the backbone, the classification head left out."""
    head = tuple(f"{name}." for name in head_modules(network))
    return {name: p for name, p in backbone_module(network).named_parameters() if not name.startswith(head)}


def backbone_buffers(network: Any) -> dict[str, Tensor]:
    """Name -> buffer of the backbone that is part of its state dict."""
    backbone = backbone_module(network)
    saved = backbone.state_dict().keys()
    return {name: buffer for name, buffer in backbone.named_buffers() if name in saved}


def backbone_state(network: Any) -> dict[str, Tensor]:
    """Name -> floating point parameter or buffer of the backbone, the head left out, in order of definition."""
    head = tuple(f"{name}." for name in head_modules(network))
    tensors = backbone_module(network).state_dict()
    return {name: t for name, t in tensors.items() if t.is_floating_point() and not name.startswith(head)}


def load_backbone(network: Any, tensors: Mapping[str, Tensor]) -> None:
    """Copy converted tensors into a network's backbone; its head stays as it is."""
    backbone_module(network).load_state_dict(tensors, strict=False)
