"""What networks keep of their parameters from one forward pass to the next (torch only)."""

from torch import Tensor, nn


def clear_caches(network: nn.Module) -> None:
    """Forget tensors that were computed from parameters, so that the next forward pass computes them again.

    LeViT, TinyViT, EfficientFormer and EfficientViT of timm keep their position biases in dicts while in eval mode:
    they would not see other parameters, and no copy can be made of a network that keeps tensors with a history.

    Args:
        network: whose modules' dicts of tensors are emptied; parameters and buffers stay.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> layer.bias_cache = {"cpu": layer.bias * 2}
        >>> clear_caches(layer)
        >>> layer.bias_cache
        {}
    """
    for module in network.modules():
        for name, value in vars(module).items():
            kept = name not in ("_parameters", "_buffers", "_modules") and isinstance(value, dict)
            if kept and any(isinstance(entry, Tensor) for entry in value.values()):
                value.clear()
