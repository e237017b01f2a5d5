"""Position embeddings of a Transformer, resampled to the grid of another image size."""

import math

from torch import Tensor

from ..errors import ArchitectureMismatchError


EMBEDDINGS = ("pos_embed", "position_embeddings", "position_embedding.weight")

TABLES = ("relative_position_bias_table",)


def resampled(name: str, tensor: Tensor, wanted: Tensor) -> Tensor | None:
    """A source's position embedding on the anchor's grid, by timm's bicubic resampling.

    Args:
        name: of the tensor.
        tensor: `[1, prefix + tokens, width]`, or without the first axis, or a table `[(2 h - 1) (2 w - 1), heads]`, of
            a square grid.
        wanted: the anchor's.

    Returns:
        The tensor in the anchor's shape; `None` where it is no position embedding or has that shape already.

    Raises:
        ArchitectureMismatchError: a grid that is not square, or another width.

    Example:
        >>> import torch
        >>> resampled("pos_embed", torch.zeros(1, 1 + 14 * 14, 8), torch.zeros(1, 1 + 7 * 7, 8)).shape
        torch.Size([1, 50, 8])
    """
    from timm.layers import resample_abs_pos_embed, resize_rel_pos_bias_table

    if tensor.shape == wanted.shape or not name.endswith(EMBEDDINGS + TABLES) or tensor.ndim != wanted.ndim:
        return None
    if tensor.shape[-1] != wanted.shape[-1]:
        raise ArchitectureMismatchError(f"{name} has width {tensor.shape[-1]}, the anchor's {wanted.shape[-1]}.")
    if name.endswith(TABLES):
        old, new = (math.isqrt(t.shape[0]) for t in (tensor, wanted))
        window = ((new + 1) // 2, (new + 1) // 2)
        if old * old != tensor.shape[0] or new * new != wanted.shape[0]:
            raise ArchitectureMismatchError(f"{name} belongs to windows that are not square: {tuple(tensor.shape)}.")
        return resize_rel_pos_bias_table(tensor, new_window_size=window, new_bias_shape=tuple(wanted.shape))
    if tensor.ndim == 2:
        found = resampled(name, tensor[None], wanted[None])
        return None if found is None else found[0]
    prefix = _prefix_tokens(tensor.shape[1], wanted.shape[1])
    if prefix is None:
        raise ArchitectureMismatchError(
            f"{name} has {tensor.shape[1]} tokens, the anchor's {wanted.shape[1]}: no two square grids."
        )
    side = math.isqrt(wanted.shape[1] - prefix)
    return resample_abs_pos_embed(tensor, new_size=[side, side], num_prefix_tokens=prefix)


def _prefix_tokens(one: int, other: int) -> int | None:
    """Class and register tokens before the grid: the fewest that leave two squares."""
    for prefix in range(6):
        if all(count > prefix and math.isqrt(count - prefix) ** 2 == count - prefix for count in (one, other)):
            return prefix
    return None
