"""Kernel weights as a table and as figures a stage of the network."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .blending import KernelWeights


def network_stage(name: str) -> str:
    """The stage of the network that a tensor belongs to: its name up to the first numbered part.

    Example:
        >>> network_stage("layer3.0.conv1.weight"), network_stage("encoder.stages.1.layers.0.weight")
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


def stage_statistics(layout: KernelWeights, parameter: Tensor) -> dict[str, float]:
    """Mean and standard deviation of the other sources' weights, by stage of the network.

    Args:
        layout: names and kernel shapes.
        parameter: `[S - 1, number of kernels]`.

    Returns:
        `kernel_weight/<stage>/mean` and `.../std`; with several other sources `kernel_weight/<stage>/<index>/...`.
    """
    stages: dict[str, list[Tensor]] = defaultdict(list)
    for name, weight in layout.split(parameter).items():
        stages[network_stage(name)].append(weight.reshape(len(weight), -1))
    figures = {}
    for stage, parts in stages.items():
        for index, weights in enumerate(torch.cat(parts, dim=1), start=1):
            key = f"kernel_weight/{stage}" + (f"/{index}" if parts[0].shape[0] > 1 else "")
            figures[f"{key}/mean"] = weights.mean().item()
            figures[f"{key}/std"] = 0.0 if math.prod(weights.shape) < 2 else weights.std().item()
    return figures


def source_shares(table: Any, kinds: Mapping[str, str]) -> Any:
    """How much of each source stands in each stage of the network and kind of layer.

    Args:
        table: of [`kernel_table`].
        kinds: module name -> its class.

    Returns:
        A `pandas.DataFrame` with columns `stage`, `kind`, `source`, `share` (mean weight), `size` (root mean square
        weight: weights of either sign do not cancel in it) and `kernels`, in the order of the network.
    """
    tensors = table["tensor"].cat.categories
    stages = table["tensor"].map({name: network_stage(name) for name in tensors})
    layers = table["tensor"].map({name: kinds.get(module_name(name), "parameter") for name in tensors})
    groups = table.assign(stage=stages.astype(str), kind=layers.astype(str)).groupby(
        ["stage", "kind", "source"], sort=False, observed=True
    )
    found = groups["weight"].agg(share="mean", size=lambda weights: (weights**2).mean() ** 0.5, kernels="size")
    return found.reset_index()
