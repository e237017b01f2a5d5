"""What a network computes before its head."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def observed_features(network: nn.Module) -> Iterator[list[Tensor]]:
    """Watch what reaches the linear layers of a network.

    Args:
        network: a classifier with a linear head.

    Yields:
        A list that holds, after a forward pass, the input of the linear layer that ran last: the features `[N, D]`.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> with observed_features(network) as seen:
        ...     _ = network(torch.zeros(1, 1, 2, 2))
        >>> seen[-1].shape
        torch.Size([1, 4])
    """
    seen: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs: seen.__setitem__(slice(None), [inputs[0]]))
        for module in network.modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def features(network: nn.Module, images: Tensor) -> list[Tensor]:
    """What a network makes of images, before its head.

    Args:
        network: any; put into eval mode.
        images: `[N, C, H, W]`.

    Returns:
        Input of the linear layer that ran last, where there is one, then the output; each averaged over space.
    """
    with observed_features(network) as last:
        output: Any = network.eval()(images)
    output = getattr(output, "pooler_output", None) if hasattr(output, "last_hidden_state") else output
    output = getattr(output, "logits", output)
    found = [*last, *([output] if isinstance(output, Tensor) else [])]
    return [tensor.mean((2, 3)) if tensor.ndim == 4 else tensor.flatten(1) for tensor in found]


def feature_difference(
    original: nn.Module, network: nn.Module, images: Tensor, network_images: Tensor | None = None
) -> float:
    """How far a network's features are from the original's.

    Args:
        original: the network that a checkpoint comes from, its weights loaded.
        network: the anchor's architecture with the checkpoint in it, a head on top.
        images: `[N, C, H, W]` as the original takes them; float64 networks take float64 images.
        network_images: as the network takes them; the same by default.

    Returns:
        Largest difference of a feature, relative to the largest feature; infinity where the two have not the same
        number of features.

    Example:
        >>> layer = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> feature_difference(layer, layer, torch.ones(1, 1, 2, 2))
        0.0
    """
    ours = features(network, images if network_images is None else network_images)[0]
    candidates = [theirs for theirs in features(original, images) if theirs.shape == ours.shape]
    differences = [float((theirs - ours).abs().max() / theirs.abs().max().clamp_min(1e-12)) for theirs in candidates]
    return min(differences, default=float("inf"))
