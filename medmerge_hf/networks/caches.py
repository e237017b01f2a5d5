"""What networks keep of their parameters from one forward pass to the next (torch only)."""

from collections.abc import Iterable
from typing import Any

from torch import nn


# Of every module: parameters, buffers, hooks.
_OWN = frozenset(vars(nn.Module()))


def cache_places(network: nn.Module) -> list[tuple[Any, str]]:
    """Modules and the names of their dicts, which may come to hold tensors.

    LeViT, TinyViT, EfficientFormer and EfficientViT of timm keep their position biases there while in eval mode: they
    would not see other parameters, and no copy can be made of a network that keeps tensors with a history.

    Args:
        network: any.
    """
    return [
        (module, name)
        for module in network.modules()
        for name, value in vars(module).items()
        if isinstance(value, dict) and name not in _OWN
    ]


def clear_caches(network: nn.Module, places: Iterable[tuple[Any, str]] | None = None) -> None:
    """Forget tensors that were computed from parameters, so that the next forward pass computes them again.

    Args:
        network: whose modules' dicts of tensors are emptied; parameters and buffers stay.
        places: of [`cache_places`], where they are known.

    Example:
        >>> import torch
        >>> layer = nn.Linear(2, 2)
        >>> layer.bias_cache = {"cpu": layer.bias * 2}
        >>> clear_caches(layer)
        >>> layer.bias_cache
        {}
    """
    for module, name in cache_places(network) if places is None else places:
        kept = getattr(module, name)
        for key in [key for key, value in kept.items() if hasattr(value, "data_ptr")]:
            del kept[key]
