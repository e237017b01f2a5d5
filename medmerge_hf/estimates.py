"""Kernel weights estimated in one pass over target images, as a start for the merge stage.

RegMean (arXiv 2212.09849) asks for weights whose outputs are nearest, on each source's own inputs, to that source's
outputs. With one weight a kernel this is a small linear system an output channel, made of the products of what the
differences compute on those inputs; convolutions need no unfolding.

Fisher merging (arXiv 2111.09832) weighs each source by how much its features depend on the kernel.
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .errors import SettingsError, StateError
from .networks import backbone_module, observed_features
from .source_networks import source_networks


if TYPE_CHECKING:
    from .modeling_medmerge import MedMergeModel


BATCHES = 4
RIDGE = 1e-3
DRAWS = 8  # random projections of the features a batch


def solve_kernel_weights(products: Tensor, powers: Tensor, ridge: float = RIDGE) -> Tensor:
    """Weights that minimise `sum_s |(anchor + sum_i w_i d_i - theta_s) x_s|^2 / power_s` for each channel.

    Args:
        products: `[S, S - 1, S - 1, channels]`, mean of `(d_i x_s) (d_j x_s)`.
        powers: `[S, channels]`, mean of `(theta_s x_s)^2`.
        ridge: pull towards the anchor, relative to the diagonal.

    Returns:
        `[S - 1, channels]`.

    Example:
        >>> products, powers = torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1), torch.ones(2, 1)
        >>> solve_kernel_weights(products, powers, ridge=0.0)
        tensor([[0.7500]])
    """
    scaled = products / powers.clamp_min(1e-12)[:, None, None]
    matrix = scaled.sum(0).permute(2, 0, 1)
    # theta_j is the anchor and its own difference: source j asks for w_j = 1 and the others 0 on its inputs.
    wanted = torch.stack([scaled[j + 1, :, j] for j in range(products.shape[1])]).sum(0).T
    diagonal = matrix.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
    matrix = matrix + ridge * diagonal[:, None, None] * torch.eye(matrix.shape[-1])
    return torch.linalg.solve(matrix, wanted).T


@torch.no_grad()
def init_by_regression(model: "MedMergeModel", batches: Iterable[Any]) -> None:
    """Set the kernel weights of a model that is merging to their RegMean estimate.

    Convolutions and linear layers (with their biases) get their own; norms keep what they have.

    Args:
        model: merging, complementary, with one weight an output filter.
        batches: of training images: dicts with `pixel_values` or tensors; the first 4 are used.

    Raises:
        StateError: it is collapsed.
        SettingsError: another granularity or constraint, or no images.

    Example:
        >>> import timm
        >>> from medmerge_hf import MedMergeModel
        >>> model = MedMergeModel.from_sources([timm.create_model("test_resnet") for _ in range(2)], num_labels=2)
        >>> init_by_regression(model, [torch.rand(4, 3, 32, 32)])
        >>> bool(model.merge.source_bias.max() > 0)
        True
    """
    merge = _unbounded(model)
    if merge.granularity != "filter":
        raise SettingsError(f"The regression estimates a weight an output filter, not a {merge.granularity}.")
    given = _images(batches)
    differences = [dict(zip(merge.names, stack.parameters(), strict=True)) for stack in merge.differences]
    statistics = _layer_statistics(model, differences, given)
    weights = merge.split(merge.source_bias)
    for name, (products, powers) in statistics.items():
        found = solve_kernel_weights(products, powers).to(merge.source_bias)
        for leaf in ("weight", "bias"):
            if f"{name}.{leaf}" in weights:
                weights[f"{name}.{leaf}"].copy_(found.reshape(weights[f"{name}.{leaf}"].shape))


def init_by_fisher(model: "MedMergeModel", batches: Iterable[Any]) -> None:
    """Set the kernel weights of a model that is merging to their share of the Fisher information.

    The sources come without a head for the target, so the information is that of their features (in units of their
    standard deviation): squared gradients of random projections of them, summed over the kernel.

    Args:
        model: merging, complementary; any granularity.
        batches: of training images: dicts with `pixel_values` or tensors; the first 4 are used.

    Raises:
        StateError: it is collapsed.
        SettingsError: another constraint, or no images.

    Example:
        >>> import timm
        >>> from medmerge_hf import MedMergeModel
        >>> model = MedMergeModel.from_sources([timm.create_model("test_resnet") for _ in range(2)], num_labels=2)
        >>> init_by_fisher(model, [torch.rand(4, 3, 32, 32)])
        >>> bool(0 < model.merge.source_bias.mean() < 1)
        True
    """
    merge = _unbounded(model)
    given = [batch.to(model.device) for batch in _images(batches)]
    found = [_information(network, merge.names, given) for network in source_networks(model)]
    if merge.granularity == "model":
        shares = [torch.stack([t.sum() for t in own.values()]).sum().reshape(1) for own in found]
    else:
        shapes = dict(zip(merge.names, merge.kernel_shapes, strict=True))
        shares = [torch.cat([own[n].sum_to_size(shape).flatten() for n, shape in shapes.items()]) for own in found]
    every = torch.stack(shares)
    total = every.sum(0)
    weights = torch.where(total > 0, every / total.clamp_min(1e-30), torch.full_like(every, 1 / len(every)))
    with torch.no_grad():
        merge.source_bias.copy_(weights[1:])


def _information(network: nn.Module, names: list[str], batches: list[Tensor]) -> dict[str, Tensor]:
    """Name -> mean squared gradient of projected features."""
    backbone = backbone_module(network)
    parameters = [backbone.get_parameter(name).requires_grad_(True) for name in names]
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    generator = torch.Generator().manual_seed(0)
    for batch in batches:
        with observed_features(network) as seen:
            network(batch)
        features = seen[-1] / seen[-1].detach().std().clamp_min(1e-6)
        # Every image has a direction of its own, so that products of two images' gradients cancel on average.
        for _ in range(DRAWS):
            direction = torch.randn(features.shape, generator=generator).to(features)
            gradients = torch.autograd.grad(
                (features * direction).sum(), parameters, retain_graph=True, allow_unused=True
            )
            for total, gradient in zip(sums, gradients, strict=True):
                if gradient is not None:
                    total += gradient.square()
    return dict(zip(names, sums, strict=True))


def _unbounded(model: "MedMergeModel") -> Any:
    if model.merge is None:
        raise StateError("This model is collapsed: it has no kernel weights to set.")
    if model.merge.constraint != "complementary":
        raise SettingsError("Estimates are made for constraint='complementary'.")
    return model.merge


def _images(batches: Iterable[Any]) -> list[Tensor]:
    given = [b["pixel_values"] if isinstance(b, Mapping) else b for b in islice(batches, BATCHES)]
    if not given:
        raise SettingsError("An estimate needs images of the target.")
    return given


def _layer_statistics(
    model: "MedMergeModel", differences: list[dict[str, Tensor]], batches: list[Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Module -> products and powers, see [`solve_kernel_weights`]."""
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for network in source_networks(model):
        sums: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for name, module in backbone_module(network).named_modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)) and f"{name}.weight" in differences[0]:
                stack = [d[f"{name}.weight"] for d in differences]
                module.register_forward_hook(_observer(stack, sums.setdefault(name, [])))
        for batch in batches:
            network(batch.to(model.device))
        for name, parts in sums.items():
            means = tuple(torch.stack(column).mean(0) for column in zip(*parts, strict=True))
            found.setdefault(name, []).append(means)  # type: ignore[arg-type]
    return {name: tuple(torch.stack(c) for c in zip(*parts, strict=True)) for name, parts in found.items()}  # type: ignore[misc]


def _observer(differences: list[Tensor], sums: list[tuple[Tensor, Tensor]]) -> Any:
    def look(module: Any, inputs: Any, output: Tensor) -> None:
        outputs = [_apply(module, weight.float(), inputs[0]) for weight in (*differences, module.weight)]
        *changes, own = [_channels_first(module, value) for value in outputs]
        products = torch.stack([torch.stack([(a * b).mean(1) for b in changes]) for a in changes])
        sums.append((products, own.square().mean(1)))

    return look


def _apply(module: Any, weight: Tensor, images: Tensor) -> Tensor:
    """The layer without its bias, with other weights, padded as it pads."""
    own, bias = module.weight, module.bias
    module.weight, module.bias = nn.Parameter(weight, requires_grad=False), None
    try:
        return module.forward(images)
    finally:
        module.weight, module.bias = own, bias


def _channels_first(module: Any, output: Tensor) -> Tensor:
    return output.movedim(1 if isinstance(module, nn.Conv2d) else -1, 0).flatten(1)
