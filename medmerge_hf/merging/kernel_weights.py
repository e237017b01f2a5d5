"""The mathematics of a merge, on bare tensors.

For a tensor of the anchor and kernel `k` of it (MedMerge, arXiv 2403.11646, written with differences):

    merged[k] = anchor[k] + sum over the other sources s of  w[s, k] * (source_s[k] - anchor[k])

With two sources this is the paper's `w * theta_b + (1 - w) * theta_c`. Only differences are stored, so `w = 0` is the
anchor bit for bit.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..errors import SettingsError


Granularity = Literal["model", "layer", "filter", "kernel", "element"]

Constraint = Literal["complementary", "convex"]


GRANULARITIES: tuple[str, ...] = get_args(Granularity)

CONSTRAINTS: tuple[str, ...] = get_args(Constraint)


def kernel_shape(shape: Sequence[int], granularity: Granularity = "filter") -> tuple[int, ...]:
    """Shape of the weights of one tensor: broadcastable to the tensor, one entry a kernel.

    Args:
        shape: shape of the tensor, output channels first as in `nn.Conv2d` and `nn.Linear`. Embeddings of tokens,
            `[1, tokens, width]`, have a kernel a token (a class token, `[1, 1, width]`, one a number).
        granularity: `model` and `layer` give one weight to the tensor (`model` shares it between all tensors),
            `filter` one to each output filter / row / channel, `kernel` one to each (out, in) pair, `element` one to
            each number.

    Returns:
        A shape of the same length.

    Example:
        >>> kernel_shape((64, 3, 7, 7))
        (64, 1, 1, 1)
        >>> kernel_shape((64, 3, 7, 7), "kernel")
        (64, 3, 1, 1)
        >>> kernel_shape((1, 197, 384))
        (1, 197, 1)
    """
    kept = {"model": 0, "layer": 0, "filter": 1, "kernel": 2, "element": len(shape)}[granularity]
    if kept and len(shape) == 3:
        kept += next((dim for dim, size in enumerate(shape) if size > 1), 0)
    return tuple(size if dim < kept else 1 for dim, size in enumerate(shape))


def reduce_to_kernels(product_of: tuple[Tensor, Tensor], shape: Sequence[int]) -> Tensor:
    """Sum the product of two tensors of one shape over everything that shares a kernel.

    Args:
        product_of: two tensors of one shape.
        shape: a shape from [`kernel_shape`].

    Returns:
        The sums, of that shape.
    """
    left, right = product_of
    if tuple(shape) == tuple(left.shape):
        return left * right
    kernels = math.prod(shape)
    left, right = left.reshape(kernels, 1, -1), right.reshape(kernels, -1, 1)
    return torch.bmm(left, right).reshape(shape)


class _Blend(torch.autograd.Function):
    """`anchor + sum_s weight[s] * difference[s]`: one fused multiply-add forward, one reduction backward a source."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, weight: Tensor, *differences: Tensor) -> Tensor:
        ctx.save_for_backward(*differences)
        ctx.kernel_shape, ctx.weight_dtype = weight.shape[1:], weight.dtype
        merged = anchor
        for share, difference in zip(weight, differences, strict=True):
            merged = torch.addcmul(merged, share.to(anchor.dtype), difference)
        return merged

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        sums = [reduce_to_kernels((grad, d.to(grad.dtype)), ctx.kernel_shape) for d in ctx.saved_tensors]
        to_anchor = grad if ctx.needs_input_grad[0] else None
        return (to_anchor, torch.stack(sums).to(ctx.weight_dtype), *(None for _ in sums))


def blend(anchor: Tensor, weight: Tensor, differences: Sequence[Tensor]) -> Tensor:
    """Merge one tensor.

    Args:
        anchor: the anchor's tensor, floating point, any shape.
        weight: `[S - 1, *kernel_shape]`, the weight of every other source. Gradients flow to it and to the anchor.
        differences: `S - 1` tensors `source - anchor` of the anchor's shape; constants, they get no gradient.

    Returns:
        The merged tensor, of the anchor's shape and dtype.

    Raises:
        SettingsError: the weight has not one dimension more than the anchor.

    Example:
        >>> anchor, source = torch.zeros(2, 3), torch.ones(2, 3)
        >>> blend(anchor, torch.tensor([[[0.0], [0.5]]]), [source - anchor])
        tensor([[0.0000, 0.0000, 0.0000],
                [0.5000, 0.5000, 0.5000]])
    """
    if weight.ndim != anchor.ndim + 1:
        raise SettingsError(
            f"weight {list(weight.shape)} does not fit tensor {list(anchor.shape)}: it needs the sources first and "
            "then as many dimensions as the tensor (kernel_shape gives them)."
        )
    return _Blend.apply(anchor, weight, *differences)


def constrain(parameters: Tensor, constraint: Constraint = "complementary") -> Tensor:
    """Weights of the other sources from what is learned.

    Args:
        parameters: `[S - 1, ...]`.
        constraint: `complementary` takes the parameters as they are, the anchor gets `1 - sum`; `convex` is their
            softmax over the sources, the anchor's logit being 0.

    Returns:
        Weights of the same shape.
    """
    if constraint == "complementary":
        return parameters
    logits = torch.cat([torch.zeros_like(parameters[:1]), parameters])
    return logits.softmax(dim=0)[1:]


def initial_parameters(
    init: "float | Sequence[float]", num_sources: int, constraint: Constraint = "complementary"
) -> list[float]:
    """The parameters that give the other sources the weights `init`.

    Args:
        init: weight of each other source, or one for all; 0 is the anchor, `1 / num_sources` the average.
        num_sources: S, the anchor included.
        constraint: see [`constrain`].

    Returns:
        The value that the parameters of each other source start from.

    Raises:
        SettingsError: `convex` cannot reach these weights, or there are not `num_sources - 1` of them.

    Example:
        >>> initial_parameters(0.25, 4, "convex")
        [0.0, 0.0, 0.0]
    """
    weights = [float(init)] * (num_sources - 1) if isinstance(init, (int, float)) else [float(value) for value in init]
    if len(weights) != num_sources - 1:
        raise SettingsError(f"init={init} names {len(weights)} weights, there are {num_sources - 1} other sources.")
    if constraint == "complementary":
        return weights
    anchor = 1 - sum(weights)
    if min(weights) <= 0 or anchor <= 0:
        raise SettingsError(
            f"init={init} cannot be reached with constraint='convex' and {num_sources} sources: the weights must lie "
            f"strictly above 0 and their sum below 1. Take init={1 / num_sources:.3g} for the average."
        )
    return [math.log(weight / anchor) for weight in weights]


class KernelWeights(nn.Module):
    """The learned weights of a merge, and the differences that they scale.

    Args:
        shapes: name -> shape of every tensor that is merged.
        num_sources: S, the anchor included.
        granularity: what shares one weight.
        constraint: how weights follow from parameters.
        dtype: of the differences as they are stored; the sum is formed in the anchor's dtype.

    Attributes:
        source_bias: `[S - 1, number of kernels]`, float32, the only parameter that learns. `Trainer` decides by name
            what gets weight decay: "bias" keeps it away from these.
        held: names of tensors whose weights stay where they start.
        permutation: `[S - 1, channels]`, int32, how the sources were aligned ([`align_sources`]), or `None`. Frozen.
        differences: a list a source of `source - anchor`, frozen parameters. (Buffers would be broadcast by DDP at
            every step.)
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        num_sources: int,
        granularity: Granularity = "filter",
        constraint: Constraint = "complementary",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.names = list(shapes)
        self.granularity: Granularity = granularity
        self.constraint: Constraint = constraint
        self.held: set[str] = set()
        self.kernel_shapes = [kernel_shape(shapes[name], granularity) for name in self.names]
        self.sizes = [math.prod(shape) for shape in self.kernel_shapes]
        kernels = 1 if granularity == "model" else sum(self.sizes)
        self.source_bias = nn.Parameter(torch.zeros(num_sources - 1, kernels))
        self.permutation: nn.Parameter | None
        self.register_parameter("permutation", None)
        self.differences = nn.ModuleList(
            nn.ParameterList(
                nn.Parameter(torch.zeros(*shapes[name], dtype=dtype), requires_grad=False) for name in self.names
            )
            for _ in range(num_sources - 1)
        )

    @torch.no_grad()
    def set_sources(self, anchor: Mapping[str, Tensor], sources: Sequence[Mapping[str, Tensor]]) -> None:
        """Store what separates each source from the anchor.

        Args:
            anchor: name -> tensor of the anchor.
            sources: the same names for each other source.
        """
        for stored, source in zip(self.differences, sources, strict=True):
            for name, difference in zip(self.names, stored.parameters(), strict=True):
                difference.copy_(source[name] - anchor[name])

    @torch.no_grad()
    def reset(self, init: "float | Sequence[float]") -> None:
        """Set the weights of the other sources to `init`, one for all or one each (0 is the anchor)."""
        values = initial_parameters(init, len(self.differences) + 1, self.constraint)
        self.source_bias.copy_(self.source_bias.new_tensor(values)[:, None].expand_as(self.source_bias))

    def split(self, parameter: Tensor) -> dict[str, Tensor]:
        """Name -> weights `[S - 1, *kernel_shape]` of the other sources, connected to `parameter`.

        Args:
            parameter: of the shape of `source_bias`.
        """
        weight = constrain(parameter, self.constraint)
        if self.granularity == "model":
            parts: Sequence[Tensor] = [weight] * len(self.names)
        else:
            # split, not slices: its backward is one concatenation instead of one full-size gradient a tensor.
            parts = weight.split(self.sizes, dim=1)
        return {
            name: (part.detach() if name in self.held else part).reshape(-1, *shape)
            for name, part, shape in zip(self.names, parts, self.kernel_shapes, strict=True)
        }

    def l2_penalty(self) -> Tensor:
        """Mean square of the other sources' weights: how far the merge is from its anchor.

        Returns:
            A scalar, for a loss.

        Example:
            >>> merge = KernelWeights({"w": (2, 3)}, 2)
            >>> merge.reset(0.9)
            >>> round(merge.l2_penalty().item(), 2)
            0.81
        """
        return constrain(self.source_bias, self.constraint).square().mean()

    def forward(self, anchor: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Merge every tensor.

        Args:
            anchor: name -> tensor of the anchor.

        Returns:
            Name -> merged tensor, a function of the weights.
        """
        weights = self.split(self.source_bias)
        stacks = zip(*self.differences, strict=True)
        return {
            name: blend(anchor[name], weights[name], stack) for name, stack in zip(self.names, stacks, strict=True)
        }


KERNEL_WEIGHTS = "merge.source_bias"

PERMUTATION = "merge.permutation"
