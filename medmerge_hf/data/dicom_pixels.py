"""The stored values of a DICOM file as grey or colour of 8 bits, through pydicom's own pipeline."""

from typing import NamedTuple

import numpy as np
from PIL import Image
from pydicom import Dataset
from pydicom.pixels import (
    apply_color_lut,
    apply_modality_lut,
    apply_presentation_lut,
    apply_voi,
    apply_windowing,
    get_decoder,
)
from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes
from pydicom.valuerep import DSfloat

from ..errors import DataError


GREY = ("MONOCHROME1", "MONOCHROME2")
SEVERAL = "has several windows or lookup tables: the first is used"
UNWINDOWED = (
    "has neither a window nor plain grey of 8 bits: the lowest value of all such files is black and the highest white "
    "(dicom_window sets a window)"
)
COLOUR = "is in colour, for which dicom_window is not used"
WINDOW = ("WindowCenter", "WindowWidth")


class Picture(NamedTuple):
    """A picture, and what had to be decided for it.

    Attributes:
        image: of mode `L` or `RGB`.
        notes: texts that go on after the file's name.
        ends: lowest and highest value of deep grey that has no window, padding left out; `None` of anything else.
    """

    image: Image.Image
    notes: list[str]
    ends: tuple[float, float] | None = None


def picture(
    data: Dataset, window: tuple[float, float] | None = None, ends: tuple[float, float] | None = None
) -> Picture:
    """The picture of a data set of one frame.

    Args:
        data: as `pydicom.dcmread` gives it; values that the standard lets out are filled in.
        window: centre and width, in the place of the data set's own.
        ends: values that are black and white in deep grey that has no window; its own if not given.

    Raises:
        DataError: what cannot be shown; the text goes on after the file's name. pydicom raises other errors.
    """
    raw, kind = _decoded(data)
    stored = _stored(data, raw)
    notes, own = [COLOUR] if window is not None and kind not in GREY else [], None
    if kind in GREY and raw.ndim == 2:
        padding = _padding(data, raw) | _padding(data, stored)
        values, levels, notes = _grey(data, stored, window)
        if levels is None:
            own = _ends(values[~padding])
            levels = _between(values, ends or own)
        levels = np.where(padding, 0, _presented(data, levels, kind))
    elif kind == "PALETTE COLOR" and raw.ndim == 2:
        levels = _palette(data, stored)
    elif kind == "RGB" and raw.shape[2:] == (3,) and stored.dtype.kind == "u":
        levels = _as_it_lies(data, stored)
    else:
        raise DataError(
            f"is in {kind} of {data.SamplesPerPixel} samples, PixelRepresentation {data.get('PixelRepresentation')}: "
            "of this no picture is made. Convert it to MONOCHROME2 or RGB."
        )
    return Picture(Image.fromarray(np.rint(levels * 255).astype(np.uint8)), notes, own)


def _decoded(data: Dataset) -> tuple[np.ndarray, str]:
    """`[rows, columns]` or `[rows, columns, 3]` as stored, YBR turned into RGB; and their photometric interpretation.

    The bits above the stored ones are kept.
    """
    syntax = data.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise DataError(f"is in transfer syntax {syntax.name}, which pydicom does not decode.") from error
    hint = f'pip install "medmerge_hf[dicom]" brings what decodes {syntax.name}'
    if not decoder.is_available:
        raise DataError(f"is compressed: {hint} (missing: {'; '.join(decoder.missing_dependencies)}).")
    try:
        raw, found = decoder.as_array(data, correct_unused_bits=False)
    except RuntimeError as error:
        if decoder.available_plugins != ("pillow",):
            raise
        raise DataError(f"cannot be decoded by Pillow alone ({' '.join(str(error).split())}): {hint}.") from error
    if found["number_of_frames"] != 1:
        raise DataError(f"holds {found['number_of_frames']} frames, though NumberOfFrames says 1.")
    return raw, str(found["photometric_interpretation"])


def _stored(data: Dataset, raw: np.ndarray) -> np.ndarray:
    """The stored bits alone: above them may lie the sign, overlays or padding."""
    corrected = (*JPEG2000TransferSyntaxes, *JPEGLSTransferSyntaxes)  # by pydicom, from the codestream
    if raw.dtype.kind == "f" or data.file_meta.TransferSyntaxUID in corrected:
        return raw
    spare = max(raw.dtype.itemsize * 8 - data.BitsStored, 0)
    stored = (raw << spare) >> spare
    if data.get("HighBit") not in (None, data.BitsStored - 1) and (stored != raw).any():
        raise DataError(
            f"has BitsStored {data.BitsStored} and HighBit {data.HighBit}: only values that end at bit 0 are read."
        )
    return stored


def _as_it_lies(data: Dataset, stored: np.ndarray) -> np.ndarray:
    """0 to 1 for what the stored bits can hold."""
    signed = stored.dtype.kind == "i"
    levels = (stored + signed * 2.0 ** (data.BitsStored - 1)) / (2.0**data.BitsStored - 1)
    if levels.max() > 1 or levels.min() < 0:
        raise DataError(f"has values of more than BitsStored {data.BitsStored} bits ({stored.min()}..{stored.max()}).")
    return levels


def _palette(data: Dataset, stored: np.ndarray) -> np.ndarray:
    """Colours 0 to 1 of indices."""
    entries, first, bits = data.RedPaletteColorLookupTableDescriptor
    last = first + (entries or 2**16) - 1
    colours = apply_color_lut(np.clip(stored.astype(np.int64), first, last), data)[..., :3]
    if colours.dtype == np.uint8 and last - first > 255:  # pydicom counts these indices in 8 bits
        raise DataError(f"has a palette of {last - first + 1} entries of 8 bits: more than 256 are not read.")
    return colours / (255 if bits <= 8 and colours.max() <= 255 else 65535)


def _grey(
    data: Dataset, stored: np.ndarray, window: tuple[float, float] | None
) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Values in the file's units; grey 0 to 1 by a window or lookup table, `None` without either; and notes."""
    values = _modality(data, stored)
    if not np.isfinite(values).all():
        raise DataError("has values that are not finite.")
    if window is not None:
        return values, _windowed(data, values, *window), []
    notes = [SEVERAL] if _views(data) > 1 else []
    if data.get("VOILUTSequence"):
        return values, _looked_up(data, values), notes
    if _views(data):
        return values, _windowed(data, values, *_own_window(data)), notes
    if values is stored and stored.dtype.kind != "f" and data.BitsStored <= 8:
        return values, _as_it_lies(data, stored), notes
    return values, None, [UNWINDOWED]


def _padding(data: Dataset, raw: np.ndarray) -> np.ndarray:
    """Where pixels are the padding value, or between it and the limit of its range."""
    prefix = {"float32": "Float", "float64": "DoubleFloat"}.get(raw.dtype.name, "")
    value = data.get(f"{prefix}PixelPaddingValue")
    if value is None:
        return np.zeros(raw.shape, bool)
    limit = data.get(f"{prefix}PixelPaddingRangeLimit")
    ends = np.array([value, value if limit is None else limit])
    if raw.dtype.kind != "f" and raw.dtype.itemsize == 2:
        ends = ends.astype(np.int64).astype(raw.dtype)  # many files give -2000 as 63536, or the other way round
    return (raw >= ends.min()) & (raw <= ends.max())


def _modality(data: Dataset, stored: np.ndarray) -> np.ndarray:
    """Values in the file's units; `stored` itself where it says nothing of them."""
    if data.get("ModalityLUTSequence"):
        return apply_modality_lut(stored.astype(np.int64), data)
    slope, intercept = data.get("RescaleSlope"), data.get("RescaleIntercept")
    if slope == 0:
        raise DataError("has RescaleSlope 0, with which every pixel is the same.")
    data.RescaleSlope, data.RescaleIntercept = 1 if slope is None else slope, intercept or 0
    same = (data.RescaleSlope, data.RescaleIntercept) == (1, 0)
    return stored if same else apply_modality_lut(stored, data)


def _views(data: Dataset) -> int:
    """How many windows and lookup tables a data set offers."""
    windows = [data[name].VM if data.get(name) is not None else 0 for name in WINDOW]
    return min(windows) + len(data.get("VOILUTSequence") or [])


def _own_window(data: Dataset) -> tuple[float, float]:
    centre, width = (float(np.ravel(data[name].value)[0]) for name in WINDOW)
    if not (np.isfinite([centre, width]).all() and width > 0):
        raise DataError(
            f"has WindowCenter {centre:g} and WindowWidth {width:g}: set dicom_window, or repair the file."
        )
    return centre, width


def _windowed(data: Dataset, values: np.ndarray, centre: float, width: float) -> np.ndarray:
    """0 to 1; in a data set of its own, as pydicom otherwise takes black and white from the file's bits and slope."""
    function = str(data.get("VOILUTFunction") or "LINEAR").upper()
    view = Dataset()
    view.PhotometricInterpretation, view.PixelRepresentation, view.BitsStored = "MONOCHROME2", 0, 16
    view.WindowCenter, view.WindowWidth = DSfloat(centre, auto_format=True), DSfloat(width, auto_format=True)
    # LINEAR is only defined for a width of at least 1: less is meant in units that are no integers.
    view.VOILUTFunction = "LINEAR_EXACT" if function == "LINEAR" and width < 1 else function
    with np.errstate(over="ignore"):  # far below a SIGMOID window
        return apply_windowing(values, view) / 65535


def _looked_up(data: Dataset, values: np.ndarray) -> np.ndarray:
    item = data.VOILUTSequence[0]
    entries, first, bits = item.LUTDescriptor
    item.LUTDescriptor[2] = 16  # with 8, pydicom would count the indices in 8 bits too
    indices = np.clip(np.rint(values).astype(np.int64), first, first + (entries or 2**16) - 1)
    return np.clip(apply_voi(indices, data) / (2.0**bits - 1), 0, 1)


def _ends(kept: np.ndarray) -> tuple[float, float] | None:
    return (float(kept.min()), float(kept.max())) if kept.size else None


def _between(values: np.ndarray, ends: tuple[float, float] | None) -> np.ndarray:
    low, high = ends or (0.0, 0.0)
    return np.clip((values.astype(float) - low) / (high - low), 0, 1) if high > low else np.zeros(values.shape)


def _presented(data: Dataset, levels: np.ndarray, kind: str) -> np.ndarray:
    """High levels bright; a presentation lookup table already says what is bright."""
    if data.get("PresentationLUTSequence"):
        entries, _, bits = data.PresentationLUTSequence[0].LUTDescriptor
        last = (entries or 2**16) - 1
        # pydicom stretches what it is given over the table, so it is given both ends too.
        steps = np.append(np.rint(levels * last).ravel(), [0, last])
        return apply_presentation_lut(steps, data)[:-2].reshape(levels.shape) / (2.0**bits - 1)
    shape = str(data.get("PresentationLUTShape") or "IDENTITY").strip().upper()
    if shape not in ("IDENTITY", "INVERSE"):
        raise DataError(f"has PresentationLUTShape {shape}, which is not read: only IDENTITY and INVERSE are.")
    # MONOCHROME1 and INVERSE say the same thing, so that both together invert once.
    return 1 - levels if kind == "MONOCHROME1" or shape == "INVERSE" else levels
