"""BatchNorms that an export took into the convolutions before them, taken out again; biases before one taken off.

A convolution with the bias `b` in place of a convolution and a BatchNorm computes what the same kernel does before a
BatchNorm of mean 0, variance 1, bias `b` and the weight that undoes its eps. How the two shared the scale is lost: all
of it stays in the kernel.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .state_dict import find_prefix


def norms_behind(network: nn.Module) -> dict[str, str]:
    """Convolution without a bias -> the BatchNorm of as many channels that follows it in order of definition.

    Example:
        >>> norms_behind(nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()))
        {'0': '1'}
    """
    found: dict[str, str] = {}
    waiting: tuple[str, int] | None = None
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            waiting = (name, module.out_channels) if module.bias is None else None
        elif isinstance(module, _BatchNorm):
            if waiting and module.num_features == waiting[1] and module.affine:
                found[waiting[0]] = name
            waiting = None
    return found


def unfold(
    tensors: Mapping[str, Tensor], network: nn.Module, eps: float | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """A checkpoint whose convolutions have the biases that a network's do not have, with BatchNorms behind them.

    Args:
        tensors: the checkpoint, by the network's names behind some prefix.
        network: says which BatchNorm follows which convolution.
        eps: of the BatchNorms that are made; the network's by default.

    Returns:
        The tensors, and a note of what was done.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8))
        >>> fused = {"0.weight": torch.ones(8, 3, 3, 3), "0.bias": torch.ones(8)}
        >>> sorted(unfold(fused, network)[0])
        ['0.weight', '1.bias', '1.running_mean', '1.running_var', '1.weight']
    """
    pairs = norms_behind(network)
    prefix = find_prefix(tensors, {f"{name}.weight" for pair in pairs.items() for name in pair})
    found, folded, shifted = dict(tensors), 0, 0
    for conv, norm in pairs.items():
        bias, mean = tensors.get(f"{prefix}{conv}.bias"), tensors.get(f"{prefix}{norm}.running_mean")
        if bias is None or f"{prefix}{conv}.weight" not in tensors or not bias.is_floating_point():
            continue
        if f"{prefix}{norm}.weight" not in tensors:
            own: Any = network.get_submodule(norm).eps if eps is None else eps
            found |= {f"{prefix}{norm}.{leaf}": made for leaf, made in _neutral(bias, own).items()}
            folded += 1
        elif mean is not None and mean.shape == bias.shape:
            found[f"{prefix}{norm}.running_mean"] = mean - bias
            shifted += 1
        else:
            continue
        del found[f"{prefix}{conv}.bias"]
    notes = [f"{folded} BatchNorms that were folded into convolutions taken out again"] if folded else []
    notes += [f"{shifted} biases before a BatchNorm taken off its mean"] if shifted else []
    return found, notes


def _neutral(bias: Tensor, eps: float) -> dict[str, Tensor]:
    """A BatchNorm that adds a bias and does nothing else."""
    ones = torch.ones_like(bias)
    scale = ones * (1 + eps) ** 0.5
    return {"weight": scale, "bias": bias, "running_mean": torch.zeros_like(bias), "running_var": ones}
