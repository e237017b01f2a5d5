"""Decoded images that stay in memory, so that no epoch decodes them again."""

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import psutil
from PIL import Image


# Of the memory that is free when a data set is read, and never more than so many bytes.
SHARE, MOST = 1 / 8, 2 * 2**30

# Split of a target -> its images, each with its label if it has one. Worker processes that are forked share it,
# spawned ones decode for themselves.
_ROWS: WeakKeyDictionary[Any, list[tuple[Any, ...]]] = WeakKeyDictionary()


class DecodedImages:
    """Images as they were decoded to be checked, as long as the memory for them lasts.

    Args:
        budget: bytes; by default an eighth of what is free, at most 2 GiB.
    """

    def __init__(self, budget: int | None = None) -> None:
        self.budget = min(int(psutil.virtual_memory().available * SHARE), MOST) if budget is None else budget
        self._pixels: dict[int, np.ndarray] = {}

    def add(self, row: int, image: Image.Image | None) -> None:
        """Keep the image of a row, while there is room."""
        if image is None or self.budget < 0:
            return
        pixels = np.asarray(image)
        self.budget -= pixels.nbytes
        if self.budget >= 0:
            self._pixels[row] = pixels

    def hand_out(self, split: Any, members: Sequence[int], mode: str) -> None:
        """Serve a split from memory, if all its images were kept: half of them would hardly make an epoch faster.

        Args:
            split: rows as they are handed out.
            members: which images they are.
            mode: `L` or `RGB`, of all images.
        """
        if all(row in self._pixels for row in members):
            pixels = [_in_mode(self._pixels[row], mode) for row in members]
            columns = [split["label"]] if "label" in split.column_names else []
            _ROWS[split] = list(zip(pixels, *columns, strict=True))


def _in_mode(pixels: np.ndarray, mode: str) -> np.ndarray:
    return pixels if (pixels.ndim == 2) == (mode == "L") else np.asarray(Image.fromarray(pixels).convert(mode))


def row_of(split: Any, index: int) -> tuple[Any, ...]:
    """Image and label of a row, the image from memory where it is kept there.

    Args:
        split: rows with the columns `image` and `label`, or with the one column `image`.
        index: of a row.
    """
    try:
        kept = _ROWS.get(split)
    except TypeError:  # a list or the like
        kept = None
    if kept is None or split.format["type"] is not None:
        row = split[index]
        return (row["image"],) if set(row) == {"image"} else (row["image"], row["label"])
    pixels, *label = kept[index]
    return Image.fromarray(pixels), *label
