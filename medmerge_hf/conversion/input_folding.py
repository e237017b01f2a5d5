"""Input conventions folded into the first convolution, so that all sources take the anchor's images (torch only).

If a source sees `matrix @ x + offset` where the anchor sees `x`, its stem `W` may see `x` with `W @ matrix` and a bias
of `W @ offset`. That is exact wherever the stem lies wholly inside the image. At a zero-padded border the padding
means the anchor's zero, no longer the source's, which changes what is computed there.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import ArchitectureMismatchError
from ..networks.input_convention import InputConvention


# How PIL makes grey of RGB (ITU-R 601-2).
LUMA = (0.299, 0.587, 0.114)


def channel_map(
    source: InputConvention, anchor: InputConvention, source_channels: int, anchor_channels: int
) -> tuple[Tensor, Tensor]:
    """What a source's network sees, as a function of what the anchor's sees.

    One channel and three are bridged by PIL's rule: a grey network sees the luma of RGB pixels, an RGB network sees
    the grey pixel three times.

    Args:
        source: convention of the source.
        anchor: convention of the anchor.
        source_channels: of the source's stem, 1 or 3.
        anchor_channels: of the anchor's stem, 1 or 3.

    Returns:
        `matrix` `[source_channels, anchor_channels]` and `offset` `[source_channels]`, float64, such that
        `x_source = matrix @ x_anchor + offset`.

    Raises:
        ArchitectureMismatchError: channel numbers that no rule bridges.

    Example:
        >>> unit, symmetric = InputConvention(), InputConvention(mean=[0.5], std=[0.5])
        >>> [part.tolist() for part in channel_map(symmetric, unit, 1, 1)]
        [[[2.0]], [-1.0]]
    """
    pixels = _pixel_map(source_channels, anchor_channels)
    mean, std = (_values(values, source_channels) for values in (source.pixel_mean, source.pixel_std))
    anchor_mean, anchor_std = (_values(values, anchor_channels) for values in (anchor.pixel_mean, anchor.pixel_std))
    matrix = pixels * anchor_std / std[:, None]
    offset = (pixels @ anchor_mean - mean) / std
    if source.channel_order == "bgr":
        matrix, offset = matrix.flip(0), offset.flip(0)
    return (matrix.flip(1) if anchor.channel_order == "bgr" else matrix), offset


def _pixel_map(source_channels: int, anchor_channels: int) -> Tensor:
    if source_channels == anchor_channels:
        return torch.eye(source_channels, dtype=torch.float64)
    if (source_channels, anchor_channels) == (1, 3):
        return torch.tensor([LUMA], dtype=torch.float64)
    if (source_channels, anchor_channels) == (3, 1):
        return torch.ones(3, 1, dtype=torch.float64)
    raise ArchitectureMismatchError(
        f"A stem of {source_channels} channels cannot take images of {anchor_channels}: only 1 and 3 are bridged."
    )


def _values(values: Sequence[float], channels: int) -> Tensor:
    found = torch.tensor(values, dtype=torch.float64)
    return found.mean().expand(channels) if len(found) != channels else found


def changes(matrix: Tensor, offset: Tensor) -> bool:
    """Whether a channel map is anything but the identity."""
    square = matrix.shape[0] == matrix.shape[1]
    return not square or not torch.allclose(matrix, torch.eye(len(matrix), dtype=matrix.dtype)) or bool(offset.any())


def find_stems(backbone: nn.Module, names: Any = None, channels: int = 3) -> dict[str, str | None]:
    """The convolutions that see the image, and where their missing bias can go.

    Args:
        backbone: the network.
        names: of the stems, as timm's `first_conv` says; the first convolution of this many channels by default.
        channels: of the images.

    Returns:
        Name of a convolution -> name of the BatchNorm that follows one without bias (`None` with a bias, or where none
        follows). Empty where no convolution takes the image's channels: one that is cut into patches or folded into
        channels before (space to depth).

    Example:
        >>> find_stems(nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)))
        {'0': '1'}
    """
    modules = list(backbone.named_modules())
    wanted = {names} if isinstance(names, str) else set(names or ())
    places = [i for i, (_, m) in enumerate(modules) if isinstance(m, nn.Conv2d) and m.in_channels == channels]
    stated = [place for place in places if modules[place][0] in wanted]
    return {modules[place][0]: _norm_behind(modules, place) for place in stated or places[:1]}


def _norm_behind(modules: Sequence[tuple[str, Any]], place: int) -> str | None:
    stem = modules[place][1]
    if stem.bias is not None:
        return None
    for name, module in modules[place + 1 :]:
        if isinstance(module, _BatchNorm):
            return name if module.num_features == stem.out_channels else None
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.LayerNorm)):
            break
    return None


def fold_into_stem(
    tensors: dict[str, Tensor], stem: str, norm: str | None, matrix: Tensor, offset: Tensor, source: str = "source"
) -> dict[str, Tensor]:
    """Rewrite a stem so that it takes the anchor's images.

    Args:
        tensors: the source under the anchor's names.
        stem: name of a convolution that sees the image, see [`find_stems`].
        norm: name of the BatchNorm behind it, where it has no bias.
        matrix: see [`channel_map`].
        offset: see [`channel_map`].
        source: how errors call it.

    Returns:
        The same tensors, stem and bias (or running mean) replaced.

    Raises:
        ArchitectureMismatchError: an offset, and neither bias nor BatchNorm to take it.
    """
    weight = tensors[f"{stem}.weight"].double()
    shifted = bool(offset.any())
    matrix, offset = matrix.to(weight.device), offset.to(weight.device)
    found = {**tensors, f"{stem}.weight": torch.einsum("oshw,sa->oahw", weight, matrix).float()}
    shift = torch.einsum("oshw,s->o", weight, offset)
    if f"{stem}.bias" in tensors:
        found[f"{stem}.bias"] = (tensors[f"{stem}.bias"].double() + shift).float()
    elif norm is not None:
        if f"{norm}.running_mean" in tensors:  # without: estimated again after the merge anyway
            found[f"{norm}.running_mean"] = (tensors[f"{norm}.running_mean"].double() - shift).float()
    elif shifted:
        raise ArchitectureMismatchError(
            f"Source {source!r} expects another mean than the anchor, and its stem {stem} has neither bias nor "
            "BatchNorm to take the difference. Make it the anchor, or merge sources of one normalisation."
        )
    return found
