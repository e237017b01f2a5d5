"""DICOM files as 8 bit images: rescaled, windowed, MONOCHROME1 inverted (`pip install "medmerge_hf[dicom]"`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .errors import DataError


def is_dicom(file: str | Path) -> bool:
    """Whether a file says that it is DICOM, by its name or its preamble."""
    path = Path(file)
    if path.suffix.lower() in (".dcm", ".dicom"):
        return True
    if path.suffix or not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def read_dicom(file: str | Path, window: Sequence[float] | None = None) -> Image.Image:
    """One DICOM file as a picture.

    Args:
        file: of one frame.
        window: centre and width in the file's units (Hounsfield for CT); by default the file's own window or lookup
            table, and the whole range where it has none.

    Returns:
        An image of mode `L` or `RGB`. High values are bright, whatever the photometric interpretation.

    Raises:
        DataError: no pydicom, no readable DICOM, several frames, a window without width.
    """
    try:
        import pydicom
        from pydicom.pixels import apply_modality_lut, apply_voi_lut, convert_color_space
    except ImportError as error:
        raise DataError(f'{file} is DICOM, which needs pydicom: pip install "medmerge_hf[dicom]".') from error
    try:
        data = pydicom.dcmread(file)
        pixels = data.pixel_array
    except Exception as error:  # pydicom raises almost anything on broken files
        raise DataError(f"{file} cannot be read as DICOM ({type(error).__name__}: {error}).") from error
    if int(data.get("NumberOfFrames") or 1) > 1:
        raise DataError(f"{file} has {data.NumberOfFrames} frames: export the ones to classify as single images.")
    kind = str(data.get("PhotometricInterpretation", ""))
    if int(data.get("SamplesPerPixel") or 1) == 3:
        return Image.fromarray(convert_color_space(pixels, kind, "RGB") if kind.startswith("YBR") else pixels)
    values = np.asarray(apply_modality_lut(pixels, data), dtype=float)
    if window is not None:
        low, high = _ends(window)
    elif "WindowCenter" in data or "VOILUTSequence" in data:
        values = np.asarray(apply_voi_lut(apply_modality_lut(pixels, data), data), dtype=float)
        low, high = _voi_range(data, values)
    else:
        low, high = float(values.min()), float(values.max())
    scaled = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    scaled = 1 - scaled if kind == "MONOCHROME1" else scaled
    return Image.fromarray(np.round(scaled * 255).astype(np.uint8))


def _ends(window: Sequence[float]) -> tuple[float, float]:
    if len(window) != 2 or not window[1] > 0:
        raise DataError(f"window={list(window)} is a centre and a width above 0.")
    return window[0] - window[1] / 2, window[0] + window[1] / 2


def _voi_range(data: Any, values: np.ndarray) -> tuple[float, float]:
    """What a windowed image may hold at most: without a lookup table, the window in the range of the stored bits."""
    if "VOILUTSequence" in data:
        return 0.0, float(2 ** int(data.VOILUTSequence[0].LUTDescriptor[2]) - 1)
    return float(values.min()), float(values.max())
