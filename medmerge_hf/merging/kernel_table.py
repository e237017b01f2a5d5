"""Kernel weights as a table and as figures a block of the network."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .kernel_weights import KernelWeights


def network_block(name: str) -> str:
    """The block of the network that a tensor belongs to: its name up to the first numbered part.

    Example:
        >>> network_block("layer3.0.conv1.weight"), network_block("encoder.stages.1.layers.0.weight")
        ('layer3', 'encoder.stages.1')
    """
    parts = name.split(".")
    for count, part in enumerate(parts, start=1):
        if part[-1:].isdigit():
            return ".".join(parts[:count])
    return parts[0]


def module_name(tensor: str) -> str:
    """The module that a tensor belongs to.

    Example:
        >>> module_name("layer3.0.conv1.weight")
        'layer3.0.conv1'
    """
    return tensor.rpartition(".")[0] or tensor


def kernel_table(layout: KernelWeights, parameter: Tensor, sources: Sequence[str]) -> Any:
    """One row a kernel and source.

    Args:
        layout: names and kernel shapes.
        parameter: `[S - 1, number of kernels]`.
        sources: their names, anchor first; one that occurs twice gets its place in the list added.

    Returns:
        A `pandas.DataFrame` with columns `tensor`, `kernel`, `source`, `weight`.
    """
    import numpy as np
    import pandas as pd

    names = [name if sources.count(name) == 1 else f"{name} ({index})" for index, name in enumerate(sources)]
    parts = {name: weight.reshape(len(weight), -1) for name, weight in layout.split(parameter).items()}
    weights = [torch.cat([1 - part.sum(dim=0, keepdim=True), part]).flatten() for part in parts.values()]
    counts = [part.shape[1] for part in parts.values()]
    columns = {
        "tensor": pd.Categorical.from_codes(
            np.repeat(np.arange(len(parts)), [n * len(names) for n in counts]), [*parts]
        ),
        "kernel": np.concatenate([np.tile(np.arange(n), len(names)) for n in counts]),
        "source": pd.Categorical.from_codes(
            np.concatenate([np.repeat(np.arange(len(names)), n) for n in counts]), names
        ),
        "weight": torch.cat(weights).numpy(),
    }
    return pd.DataFrame(columns)


def block_statistics(layout: KernelWeights, parameter: Tensor) -> dict[str, float]:
    """Mean and standard deviation of the other sources' weights, by block of the network.

    Args:
        layout: names and kernel shapes.
        parameter: `[S - 1, number of kernels]`.

    Returns:
        `kernel_weight/<block>/mean` and `.../std`; with several other sources `kernel_weight/<block>/<index>/...`.
    """
    stages: dict[str, list[Tensor]] = defaultdict(list)
    for name, weight in layout.split(parameter).items():
        stages[network_block(name)].append(weight.reshape(len(weight), -1))
    figures = {}
    for stage, parts in stages.items():
        for index, weights in enumerate(torch.cat(parts, dim=1), start=1):
            key = f"kernel_weight/{stage}" + (f"/{index}" if parts[0].shape[0] > 1 else "")
            figures[f"{key}/mean"] = weights.mean().item()
            figures[f"{key}/std"] = 0.0 if math.prod(weights.shape) < 2 else weights.std().item()
    return figures


def source_shares(table: Any, backbone: nn.Module) -> Any:
    """Which source the merge took how much of, by depth and kind of layer: the paper's layer-wise transfer.

    Args:
        table: of [`kernel_table`].
        backbone: whose tensors they are.

    Returns:
        A `pandas.DataFrame` with columns `block`, `kind`, `source`, `share` (mean weight), `size` (root mean square
        weight: weights of either sign do not cancel in it) and `kernels`, in the order of the network.
    """
    kinds = {name: type(module).__name__ for name, module in backbone.named_modules()}
    tensors = table["tensor"].cat.categories
    blocks = table["tensor"].map({name: network_block(name) for name in tensors})
    layers = table["tensor"].map({name: kinds.get(module_name(name), "parameter") for name in tensors})
    groups = table.assign(block=blocks.astype(str), kind=layers.astype(str)).groupby(
        ["block", "kind", "source"], sort=False, observed=True
    )
    found = groups["weight"].agg(share="mean", size=lambda weights: (weights**2).mean() ** 0.5, kernels="size")
    return found.reset_index()
