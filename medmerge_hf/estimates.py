"""Kernel weights estimated in one pass over target images, as a start for the merge stage (RegMean's objective).

RegMean (arXiv 2212.09849) asks for weights whose outputs are nearest, on each source's own inputs, to that source's
outputs. With one weight a kernel this is a small linear system an output channel, made of the products of what the
differences compute on those inputs; convolutions need no unfolding.
"""

import copy
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .errors import SettingsError, StateError
from .networks import backbone_module, backbone_parameters


if TYPE_CHECKING:
    from .modeling_medmerge import MedMergeModel


BATCHES = 4
RIDGE = 1e-3


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
    merge: Any = model.merge
    if merge is None:
        raise StateError("This model is collapsed: it has no kernel weights to set.")
    if merge.granularity != "filter" or merge.constraint != "complementary":
        raise SettingsError("The regression estimates one unbounded weight an output filter: the default settings.")
    given = [b["pixel_values"] if isinstance(b, Mapping) else b for b in islice(batches, BATCHES)]
    if not given:
        raise SettingsError("The regression needs images of the target.")
    anchor = {name: p.detach() for name, p in backbone_parameters(model.network).items()}
    differences = [dict(zip(merge.names, stack.parameters(), strict=True)) for stack in merge.differences]
    statistics = _layer_statistics(model, anchor, differences, given)
    weights = merge.split(merge.source_bias)
    for name, (products, powers) in statistics.items():
        found = solve_kernel_weights(products, powers).to(merge.source_bias)
        for leaf in ("weight", "bias"):
            if f"{name}.{leaf}" in weights:
                weights[f"{name}.{leaf}"].copy_(found.reshape(weights[f"{name}.{leaf}"].shape))


def _layer_statistics(
    model: "MedMergeModel", anchor: dict[str, Tensor], differences: list[dict[str, Tensor]], batches: list[Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Module -> products and powers, see [`solve_kernel_weights`]."""
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for index in range(len(differences) + 1):
        network = copy.deepcopy(model.network).eval()
        backbone = backbone_module(network)
        if index:
            own = {name: anchor[name] + d for name, d in differences[index - 1].items()}
            backbone.load_state_dict({**own, **model.source_statistics[index - 1]}, strict=False)
        sums: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for name, module in backbone.named_modules():
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
