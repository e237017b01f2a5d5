"""MedMNIST's layout: an `.npz` with `train_images`, `train_labels`, `val_images`, ... of two-dimensional images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...errors import DataError
from ..images import png_bytes
from ..listing import LeftOut, Listing, Reader, Request, array_bytes, concatenate, image_cells, refuse_columns
from ..splits import unlabelled_hint


IMAGES, LABELS = "images", "labels"
# Four channels come last: in the second place, 4 is a depth.
CHANNELS_LAST, CHANNELS_FIRST = (1, 3, 4), (1, 3)


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file.

    Raises:
        DataError: no `.npz`, or arrays of Python objects.
    """
    try:
        with np.load(path, allow_pickle=False) as found:
            return {key: found[key] for key in found.files}
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds
        raise DataError(f"{str(path)!r} is not a readable .npz ({type(error).__name__}: {error}).") from error


def read(request: Request) -> Listing:
    """Every image of every split; `images` and `labels` alone are one.

    Raises:
        DataError: no such arrays, of other shapes, or of unequal length.
    """
    if request.label_column is not None:
        refuse_columns(request, "an .npz has arrays of images and labels; its names are fixed, and it has no groups.")
    found = arrays_of(request.path)
    splits = [key.removesuffix(IMAGES).removesuffix("_") for key in found if key.endswith(IMAGES)]
    if not splits:
        raise DataError(
            f"{request.data!r} has no array train_images, only {sorted(found)}. MedMNIST's layout is train_images, "
            "train_labels, val_images, val_labels, ..."
        )
    names = [f"{split}_" if split else "" for split in splits]
    lone = [key for key in found if key.endswith(LABELS) and key.removesuffix(LABELS) not in names]
    if lone and request.label_column is not None:
        raise DataError(f"{request.data!r} has {lone[0]}, but no images for them, only {sorted(found)}.")
    listing = concatenate([_split(found, split, request) for split in splits], request.data)
    known = {f"{name}{kind}" for name in names for kind in (IMAGES, LABELS)}
    listing.left_out = [LeftOut(key, "neither images nor labels", True) for key in found if key not in known]
    return listing


def _split(found: Mapping[str, np.ndarray], split: str, request: Request) -> Listing:
    prefix, where = f"{split}_" if split else "", request.path.name
    key, labels = f"{prefix}{IMAGES}", found.get(f"{prefix}{LABELS}", np.empty(0))
    images = channels_last(found[key], key, where)
    alone = request.label_column is None
    if alone or (request.unlabelled and f"{prefix}{LABELS}" not in found):
        labels = np.full(len(images), None)
    count = len(labels) if labels.ndim else 0
    if count != len(images) or not count:
        some = len(images) and f"{prefix}{LABELS}" not in found and any(one.endswith(LABELS) for one in found)
        raise DataError(
            f"{where!r}: {key} has {len(images)} entries, {prefix}{LABELS} {count}: each image needs one label"
            f"{unlabelled_hint([split]) if some else ''}."
        )
    encoded = [_encoded(image) for image in images]
    values: list[Any] = labels.reshape(count, -1).tolist() if labels.ndim > 1 else labels.tolist()
    places = [f"{where} {key}[{index}]" for index in range(count)]
    words = [split] * count if split and not alone else None
    return Listing(image_cells(encoded, Path(), places), values, places, words)


def channels_last(images: np.ndarray, key: str, where: str) -> np.ndarray:
    """Images as `[N, H, W]` or `[N, H, W, C]`.

    Raises:
        DataError: volumes, or no images at all.
    """
    if images.ndim == 3 or (images.ndim == 4 and images.shape[3] in CHANNELS_LAST):
        return images
    if images.ndim == 4 and images.shape[1] in CHANNELS_FIRST:
        return np.moveaxis(images, 1, 3)
    kind = "three-dimensional volumes, which are not read: save slices" if images.ndim in (4, 5) else "no images"
    raise DataError(
        f"{where!r}: {key} is {list(images.shape)}: {kind}. Images are [N, H, W], [N, H, W, 3] or [N, 3, H, W]."
    )


def _encoded(image: np.ndarray) -> bytes:
    """A picture as PNG where it has 8 bits; deeper ones are scaled later, by one rule for all."""
    if image.dtype != np.uint8 or 0 in image.shape:
        return array_bytes(image)
    plain = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    return png_bytes(Image.fromarray(np.ascontiguousarray(plain)))


READER = Reader("MedMNIST .npz", read, (".npz",))
