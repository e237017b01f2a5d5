"""One more file as an image of 8 bits, by the rule that a data set was read with. Spaces carry this file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..errors import DataError
from .dicom import DICOM_SUFFIXES, is_dicom, read_dicom


# Pillow's modes that hold more than 8 bits, and those that are grey in 8 bits.
DEEP = ("I", "F")
GREY = ("1", "L", "LA", "La")
# Of these formats several frames are several images; others have previews or layers.
ANIMATED = ("TIFF", "GIF", "WEBP", "PNG", "AVIF")


def reading_rule(pixel_rule: Mapping[str, Any] | None) -> dict[str, Any]:
    """What one more file has to be read by, from the `pixel_rule` of a [`Target`].

    Args:
        pixel_rule: `None` where nothing is known of the data.

    Returns:
        `window` and `ends` of DICOM, `black` and `white` of images of more than 8 bits; `None` each for what the files
        say themselves, or there was nothing of.

    Example:
        >>> reading_rule({"mode": "L", "black": 0, "white": 4095, "deep_images": 8})
        {'window': None, 'ends': None, 'black': 0, 'white': 4095}
    """
    rule = pixel_rule or {}
    window, deep = rule.get("dicom_window"), bool(rule.get("deep_images"))
    return {
        "window": None if isinstance(window, str) else window,
        "ends": rule.get("dicom_ends"),
        "black": rule["black"] if deep else None,
        "white": rule["white"] if deep else None,
    }


def read_image(path: str | Path, rule: Mapping[str, Any]) -> Image.Image:
    """Read a file of any of Pillow's formats, or DICOM of one frame, as [`load_target`] reads those of a data set.

    Args:
        path: of the file; DICOM is known by its content or by its suffix.
        rule: of [`reading_rule`].

    Returns:
        An upright image of mode `L` or `RGB`.

    Raises:
        DataError: it cannot be read; one sentence for its owner, without the folder that it lies in.

    Example:
        >>> Image.new("RGBA", (8, 6), "red").save(file := getfixture("tmp_path") / "a.png")
        >>> read_image(file, reading_rule(None)).mode
        'RGB'
    """
    path = Path(path)
    try:
        if is_dicom(path) or path.suffix.lower() in DICOM_SUFFIXES:
            return read_dicom(path, rule["window"], rule["ends"] and tuple(rule["ends"]))
        return _decoded(path, rule["black"], rule["white"])
    except DataError as error:
        raise DataError(str(error).replace(str(path), path.name)) from error
    except FileNotFoundError as error:
        raise DataError(f"{path.name} is not there.") from error
    except Exception as error:  # Pillow raises almost anything on broken files
        raise DataError(
            f"{path.name} cannot be read: it is broken, or neither an image nor DICOM. Save it again as PNG, JPEG or "
            "DICOM of one frame."
        ) from error


def _decoded(path: Path, black: float | None, white: float | None) -> Image.Image:
    with Image.open(path) as image:
        frames = getattr(image, "n_frames", 1)
        if image.format in ANIMATED and frames > 1:
            raise DataError(f"{path.name} has {frames} frames: save the one to look at as an image of its own.")
        image.load()
        upright = ImageOps.exif_transpose(image)
    if not upright.mode.startswith(DEEP):
        return upright.convert("L" if upright.mode in GREY else "RGB")
    values = np.asarray(upright, dtype=np.float64)
    if black is None or white is None:
        raise DataError(
            f"{path.name} has more than 8 bits, and it is not recorded how such values were made 8 bits in training: "
            "save it in 8 bits, with black and white where the training images have them."
        )
    if not (values.min() >= black and values.max() <= white):
        raise DataError(
            f"{path.name} holds values from {values.min():g} to {values.max():g}; in the training images {black:g} "
            f"was black and {white:g} white. Save it in that range."
        )
    return Image.fromarray(np.round((values - black) / (white - black) * 255).astype(np.uint8))
