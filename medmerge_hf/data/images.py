"""Pixels: every image is decoded once, deep ones are scaled by one rule of the data set, none is clipped."""

import hashlib
import io
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import DataError
from .decoded import DecodedImages
from .dicom import DICOM_SUFFIXES, NoImageError, forget_notes, is_dicom, picture_of
from .single import ANIMATED, DEEP, GREY


NPY = b"\x93NUMPY"
# Depths that cameras and detectors have; the first that holds the data set's highest value is its depth.
BITS = (1, 8, 10, 12, 14, 16)
CHUNK = 256
# Fractions up to this would be left with so few of the 256 levels that they are stretched.
DIM = 1 / 16

logger = logging.getLogger(__name__)


class Depth(NamedTuple):
    """What an image of more than 8 bits holds.

    Attributes:
        kind: `integer`, `float`, or `colour` of 16 bits, of which Pillow gives the upper 8.
        low: lowest value.
        high: highest.
        whole: whether all are whole numbers.
    """

    kind: str
    low: float
    high: float
    whole: bool = True


class Look(NamedTuple):
    """What one image is.

    Attributes:
        digest: of its pixels as they are delivered; empty where it cannot be read.
        mode: `L` or `RGB`.
        problem: why it cannot be read.
        no_image: whether the file is sound but holds no pixels.
        png: what stands in its place, if it is not delivered as it lies there.
        depth: of an image of more than 8 bits.
        dicom: whether it is DICOM.
        ends: lowest and highest value of deep DICOM that has no window.
        image: as it is delivered, until it is kept elsewhere or forgotten.
    """

    digest: str = ""
    mode: str = "RGB"
    problem: str = ""
    no_image: bool = False
    png: bytes | None = None
    depth: Depth | None = None
    dicom: bool = False
    ends: tuple[float, float] | None = None
    image: Image.Image | None = None


def look_at(
    images: Any, places: Sequence[str], window: tuple[float, float] | None, decoded: DecodedImages
) -> tuple[list[Look], dict[str, Any]]:
    """Decode every image: a broken one is named before training and not in the middle of it.

    Args:
        images: of a listing.
        places: of its rows.
        window: centre and width of DICOM images.
        decoded: receives the images.

    Returns:
        A look at each image, and the rule by which pixel values became 8 bits: `mode` of all images, the values that
        are `black` and `white`, how many `deep_images` (of more than 8 bits) were scaled so, how many `dicom_images`
        have the `dicom_window`, and of how many without any window (`dicom_unwindowed`) which values are black and
        white (`dicom_ends`).

    Raises:
        DataError: no one rule can scale all deep images.
    """
    forget_notes()
    looks = _each(images, range(len(images)), lambda cell: _look(cell, window), decoded)
    deep = [index for index, look in enumerate(looks) if look.depth]
    black, white = range_of(deep, looks, places)
    _tell_mixture(deep, looks, places)
    scaled = [index for index in deep if looks[index].digest == ""]
    again = _each(images, scaled, lambda cell: _scaled(cell, black, white), decoded)
    for index, look in zip(scaled, again, strict=True):
        looks[index] = look._replace(depth=looks[index].depth)
    ends = _range_of_unwindowed(images, looks, decoded)
    modes = {look.mode for look in looks if not look.problem}
    rule: dict[str, Any] = {"mode": "L" if modes == {"L"} else "RGB", "black": black, "white": white}
    if deep:
        rule["deep_images"] = len(deep)
    return looks, rule | _dicom_rule(looks, window, ends)


def _dicom_rule(looks: Sequence[Look], window: tuple[float, float] | None, ends: Any) -> dict[str, Any]:
    number = sum(look.dicom for look in looks)
    told = "of each file" if window is None else list(window)
    rule: dict[str, Any] = {"dicom_images": number, "dicom_window": told} if number else {}
    if ends:
        rule |= {"dicom_unwindowed": sum(look.ends is not None for look in looks), "dicom_ends": list(ends)}
    return rule


def delivered(images: Any, looks: Sequence[Look], mode: str) -> Any:
    """The images of a listing as they are handed out: a data set with a column `image` of one mode."""
    feature = datasets.Image(mode=mode)
    if not any(look.png for look in looks):
        return images.cast_column("image", feature)
    cells = [
        {"bytes": look.png or cell["bytes"], "path": None} if look.png or (cell and cell["bytes"]) else cell
        for look, cell in zip(looks, images["image"], strict=True)
    ]
    return datasets.Dataset.from_dict({"image": cells}, datasets.Features({"image": feature}))


def png_bytes(image: Image.Image) -> bytes:
    """An image as PNG, compressed a little."""
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _each(images: Any, rows: Sequence[int], look: Any, decoded: DecodedImages) -> list[Look]:
    """Look at some rows, a chunk in memory at a time."""
    found: list[Look] = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(rows), CHUNK):
            chunk = list(rows[start : start + CHUNK])
            for row, one in zip(chunk, pool.map(look, images[chunk]["image"]), strict=True):
                decoded.add(row, one.image)
                found.append(one._replace(image=None))
    return found


def _look(cell: dict[str, Any] | None, window: tuple[float, float] | None, ends: Any = None) -> Look:
    try:
        return _read(cell or {}, window, ends)
    except NoImageError as error:
        return Look(problem=str(error).rstrip("."), no_image=True)
    except Exception as error:  # Pillow raises almost anything on broken files
        if isinstance(error.__cause__, ImportError):
            raise  # a library is missing, not a file broken
        return Look(problem=str(error).rstrip(".") or type(error).__name__)


def _read(cell: dict[str, Any], window: tuple[float, float] | None, ends: Any = None) -> Look:
    path = Path(cell["path"]) if cell.get("bytes") is None and cell.get("path") else None
    if path is not None and path.is_file() and (is_dicom(path) or path.suffix.lower() in DICOM_SUFFIXES):
        image, _, own = picture_of(path, window, ends)
        if own and not ends:
            return Look(mode=image.mode, dicom=True, ends=own)
        return Look(_digest(image), image.mode, png=png_bytes(image), dicom=True, ends=own, image=image)
    pixels, depth = _pixels(cell)
    if depth and depth.kind != "colour":
        return Look(mode="L" if pixels.ndim == 2 else "RGB", depth=depth)
    if isinstance(pixels, np.ndarray):
        image = Image.fromarray(pixels).convert("L" if pixels.ndim == 2 else "RGB")
        return Look(_digest(image), image.mode, png=png_bytes(image), image=image)
    mode = "L" if pixels.mode in GREY else "RGB"
    return Look(_digest(pixels), mode, depth=depth, image=pixels.convert(mode))


def _pixels(cell: dict[str, Any]) -> tuple[Any, Depth | None]:
    """An image of 8 bits, or an array; and how deep it is if it has more."""
    content, path = cell.get("bytes"), Path(cell.get("path") or "")
    if content is not None and content[:6] == NPY:
        return _array(np.load(io.BytesIO(content), allow_pickle=False))
    if content is None and not path.name:
        raise DataError("the cell of the image is empty")
    if content is None and not path.is_file():
        raise DataError(f"{path} is no file" if path.exists() else f"there is no file {path}")
    if content is not None and content[128:132] == b"DICM":
        raise DataError("DICOM is not read from a cell: save it as a file, and name that in the table")
    with _opened(path, content) as image:
        frames = getattr(image, "n_frames", 1)
        if image.format in ANIMATED and frames > 1:
            raise DataError(f"it has {frames} frames: export the ones to classify as single images")
        colour = any(";16" in str(tile[3]) for tile in image.tile)
        image.load()
        upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(DEEP):
        return _array(np.asarray(upright))
    return upright, Depth("colour", 0, float(np.max(np.asarray(upright.convert("RGB"))))) if colour else None


def _opened(path: Path, content: bytes | None) -> Any:
    try:
        return Image.open(path if content is None else io.BytesIO(content))
    except UnidentifiedImageError as error:
        if content is None:
            raise
        raise DataError(f"cannot identify image file in the cell, it begins with {content[:16]!r}") from error


def _array(array: np.ndarray) -> tuple[Any, Depth | None]:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or 0 in array.shape:
        raise DataError(f"an array of shape {list(array.shape)} is no image: [H, W], [H, W, 1 or 3] is")
    array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array[..., :3] if array.ndim == 3 else array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255, None
    if array.dtype == np.uint8:
        return array, None
    if array.dtype.kind not in "iuf":
        raise DataError(f"an array of {array.dtype} is no image")
    if not np.isfinite(array).all():
        raise DataError("it holds NaN or infinity")
    whole = array.dtype.kind != "f" or bool((array == np.floor(array)).all())
    kind = "float" if array.dtype.kind == "f" else "integer"
    return array, Depth(kind, float(array.min()), float(array.max()), whole)


def _tell_mixture(deep: Sequence[int], looks: Sequence[Look], places: Sequence[str]) -> None:
    eight = [n for n, look in enumerate(looks) if not (look.problem or look.depth or look.dicom)]
    if deep and eight:
        mixture = (len(deep), places[deep[0]], len(eight), places[eight[0]])
        logger.warning("%d images have more than 8 bits (%s), %d have 8 (%s): is white the same in both?", *mixture)


def range_of(deep: Sequence[int], looks: Sequence[Look], places: Sequence[str]) -> tuple[float, float]:
    """The values that are black and white in all deep images of a data set.

    Whole numbers: 0 and the highest number of the fewest usual bits that hold them. Fractions: 0 and 1. Where values
    lie outside of these, or all are near 0, the lowest and the highest of the data set.

    Args:
        deep: rows of images of more than 8 bits.
        looks: at all images.
        places: of all rows.

    Raises:
        DataError: no one rule can scale all of them.
    """
    depths = [(looks[index].depth or Depth("", 0, 0), places[index]) for index in deep]
    kinds = {depth.kind: place for depth, place in depths}
    if len(kinds) > 1:
        told = ", ".join(f"{place} is of kind {kind}" for kind, place in kinds.items())
        raise DataError(f"No one rule makes 8 bits of all images: {told}. Save them all in one kind.")
    low = min((depth.low for depth, _ in depths), default=0.0)
    high = max((depth.high for depth, _ in depths), default=255.0)
    if "colour" in kinds:
        return _range_of_colour(high, kinds["colour"])
    if not np.isfinite(high - low):
        raise DataError(f"Images with values from {low:g} to {high:g} cannot be scaled: save them in a smaller range.")
    if "float" in kinds and low >= 0 and DIM < high <= 1:
        return 0, 1
    bits = next((bits for bits in BITS if high < 2**bits), None)
    if low >= 0 and bits and all(depth.whole for depth, _ in depths):
        return 0, 2**bits - 1
    return low, high if high > low else low + 1


def _range_of_unwindowed(images: Any, looks: list[Look], decoded: DecodedImages) -> tuple[float, float] | None:
    """Lowest and highest value of all deep DICOM without a window, the looks at which are finished with them."""
    rows = [index for index, look in enumerate(looks) if look.ends]
    found = [look.ends for look in looks if look.ends]
    if not found:
        return None
    ends = min(low for low, _ in found), max(high for _, high in found)
    for index, look in zip(rows, _each(images, rows, lambda cell: _look(cell, None, ends), decoded), strict=True):
        looks[index] = look
    return ends


def _range_of_colour(high: float, place: str) -> tuple[float, float]:
    if high < 128:
        raise DataError(
            f"{place} is colour of 16 bits, and no image of the data set uses the upper half of them, as if it held "
            "fewer bits. Save the images in 8 bits, scaled as you mean them."
        )
    return 0, 65535


def _scaled(cell: dict[str, Any], black: float, white: float) -> Look:
    values = np.asarray(_pixels(cell)[0], dtype=np.float64)
    image = Image.fromarray(np.round((values - black) / (white - black) * 255).astype(np.uint8))
    return Look(_digest(image), image.mode, png=png_bytes(image), image=image)


def _digest(image: Image.Image) -> str:
    return hashlib.sha256(f"{image.size}".encode() + image.convert("RGB").tobytes()).hexdigest()
