"""DICOM files as 8 bit pictures (`pip install "medmerge_hf[dicom]"`).

Black and white are the two ends of a window: the one that is given, else the file's own (its VOI lookup table where it
has one). Without either, grey of up to 8 stored bits is taken as it lies, and deeper values from the lowest to the
highest of all such files, padding left out. Padding is black.
"""

import logging
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..errors import DataError


if TYPE_CHECKING:
    from .dicom_pixels import Picture

logger = logging.getLogger(__name__)

# A file that ends so claims to be DICOM, with or without a preamble.
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
# Single frames of "enhanced" objects keep here what others have at the top.
FRAME_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
FRAME_VALUES = ("PixelValueTransformationSequence", "FrameVOILUTSequence")
# Markers SOF0 to SOF15 of JPEG, but for the tables DHT, JPG and DAC; and that of JPEG-LS.
JPEG_FRAMES = ({*range(0xFFC0, 0xFFD0)} - {0xFFC4, 0xFFC8, 0xFFCC}) | {0xFFF7}
JP2_SIGNATURE = b"\0\0\0\x0cjP  "

_told: set[str] = set()


class NoImageError(DataError):
    """A sound DICOM file of a kind that holds no picture: DICOMDIR, report, plan, presentation state, waveform, ..."""


def is_dicom(path: str | Path) -> bool:
    """Whether a file is DICOM by its preamble, whatever its name.

    Args:
        path: of any file. [`read_dicom`] also reads files without a preamble that end in one of `DICOM_SUFFIXES`.

    Returns:
        Whether `DICM` stands at byte 128.

    Example:
        >>> from PIL import Image
        >>> Image.new("L", (8, 8)).save(file := getfixture("tmp_path") / "a.png")
        >>> is_dicom(file)
        False
    """
    file = Path(path)
    try:
        if not file.is_file():
            return False
        with file.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_dicom(
    path: str | Path, window: Sequence[float] | None = None, ends: tuple[float, float] | None = None
) -> Image.Image:
    """One DICOM file as a picture. What had to be decided for it is logged, once a kind (see [`forget_notes`]).

    Args:
        path: of a file of one frame.
        window: centre and width in the file's units (Hounsfield for CT), in the place of the file's own; the file's
            `VOILUTFunction` stays. Colour has no window.
        ends: values that are black and white in deep grey that has no window at all; the file's lowest and highest
            if not given.

    Returns:
        An image of mode `L` or `RGB`. High values are bright, in `MONOCHROME1` low ones.

    Raises:
        NoImageError: the file is of a kind without pixels.
        DataError: no pydicom, no sound DICOM, several frames, a compression that nothing installed decodes, tags that
            contradict each other, a window without width.
    """
    return picture_of(path, checked_window(window), ends).image


def picture_of(
    path: str | Path, window: tuple[float, float] | None = None, ends: tuple[float, float] | None = None
) -> "Picture":
    """What [`read_dicom`] gives, with the lowest and highest value of deep grey that has no window.

    Args:
        path: of a file of one frame.
        window: of [`checked_window`].
        ends: as for `read_dicom`.

    Raises:
        NoImageError: the file is of a kind without pixels.
        DataError: see `read_dicom`.
    """
    try:
        from .dicom_pixels import picture
    except ImportError as error:
        raise DataError(f'{path} is DICOM, which needs pydicom: pip install "medmerge_hf[dicom]".') from error
    try:
        found = picture(_opened(Path(path)), window, ends)
    except DataError as error:
        raise type(error)(f"{path} {error}") from error.__cause__
    except Exception as error:  # pydicom and its decoders raise almost anything on broken files
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read as DICOM ({type(error).__name__}: {reason}).") from error
    for note in found.notes:
        if note not in _told:
            _told.add(note)
            logger.warning("%s %s; other files of this kind are not named.", path, note)
    return found


def forget_notes() -> None:
    """Log every kind of note once more, for the next data set."""
    _told.clear()


def checked_window(window: Sequence[float] | None) -> tuple[float, float] | None:
    """Centre and width as numbers.

    Raises:
        DataError: a width that is not above 0, or anything else than two finite numbers.

    Example:
        >>> checked_window([40, 400])
        (40.0, 400.0)
    """
    if window is None:
        return None
    try:
        centre, width = (float(value) for value in window)
    except (TypeError, ValueError):
        centre, width = math.nan, math.nan
    if not (math.isfinite(centre) and math.isfinite(width) and width > 0):
        raise DataError(f"dicom_window={window!r} is no window: give a centre and a width above 0.")
    return centre, width


def _opened(path: Path) -> Any:
    """The data set of a file that holds one picture; messages go on after the file's name."""
    from pydicom import dcmread

    if not path.is_file():
        raise DataError("is not there.")
    marked = is_dicom(path)
    if not marked and path.suffix.lower() not in DICOM_SUFFIXES:
        raise DataError("is no DICOM: DICM does not stand at byte 128.")
    data = dcmread(path, force=not marked)
    _check_kind(data, marked)
    frames = int(data.get("NumberOfFrames") or 1)
    if frames > 1:
        raise DataError(f"has {frames} frames: save those to classify as files of one frame.")
    _set_transfer_syntax(data)
    _check_size(data)
    for group in FRAME_GROUPS:
        for item in list(data.get(group) or [])[:1]:
            for name in FRAME_VALUES:
                for values in item.get(name) or []:
                    data.update(values)
    return data


def _check_kind(data: Any, marked: bool) -> None:
    """Tell a file of another kind from a picture that lost its pixels."""
    if any(name in data for name in PIXELS) and "Rows" in data:
        return
    uid = data.get("SOPClassUID") or data.file_meta.get("MediaStorageSOPClassUID")
    kind = getattr(uid, "name", "")
    if not marked and not kind:
        raise DataError("is no DICOM: it has neither a preamble nor the tags of a picture.")
    if not kind or "Rows" in data or " Image Storage" in f" {kind}":
        raise DataError(f"has no pixels, though it is {kind or 'of no stated kind'}: it may be cut off.")
    raise NoImageError(f"holds no picture: it is {kind}.")


def _set_transfer_syntax(data: Any) -> None:
    """Files without file meta information say by their encoding how uncompressed pixels lie."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if data.file_meta.get("TransferSyntaxUID"):
        return
    if any(data[name].is_undefined_length for name in PIXELS if name in data):
        raise DataError("has compressed pixels, but no TransferSyntaxUID that says how.")
    implicit, little = data.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _check_size(data: Any) -> None:
    """Refuse pixels of another number or shape: pydicom cuts off what is too much, decoders may fill the memory."""
    from pydicom.encaps import generate_frames
    from pydicom.pixels.utils import get_expected_length

    shape = f"Rows {data.Rows}, Columns {data.Columns}, SamplesPerPixel {data.SamplesPerPixel}"
    limit = Image.MAX_IMAGE_PIXELS
    if limit and data.Rows * data.Columns > 2 * limit:
        raise DataError(f"claims {shape}: more than twice Pillow's limit of {limit} pixels.")
    if data.file_meta.TransferSyntaxUID.is_encapsulated:
        size = _encoded_size(next(generate_frames(data.PixelData, number_of_frames=1)))
        if size not in (None, (data.Rows, data.Columns)):
            raise DataError(f"has compressed pixels of {size[0]} rows and {size[1]} columns, but {shape}.")
    elif "PixelData" in data:
        expected, pixels = get_expected_length(data), data.PixelData
        if len(pixels) > expected + expected % 2 and any(pixels[expected:]):
            shape += f", BitsAllocated {data.BitsAllocated}"
            raise DataError(f"has {len(pixels)} bytes of pixels instead of {expected} ({shape}).")


def _encoded_size(stream: bytes) -> tuple[int, int] | None:
    """Rows and columns by the header of JPEG 2000 (SIZ), JPEG or JPEG-LS (SOF); `None` of others."""
    start = _after_boxes(stream)
    if stream[start : start + 4] == b"\xff\x4f\xff\x51":
        right, low, left, top = struct.unpack_from(">4I", stream, start + 8)
        return low - top, right - left
    place = 2 if stream.startswith(b"\xff\xd8") else len(stream)
    while place + 9 <= len(stream):
        marker, length, _, rows, columns = struct.unpack_from(">HHBHH", stream, place)
        if marker in JPEG_FRAMES:
            return rows, columns
        place += 2 + length
    return None


def _after_boxes(stream: bytes) -> int:
    """Where the code begins behind a JP2 header, which the standard forbids and some files have."""
    place = 0
    if stream.startswith(JP2_SIGNATURE):
        while stream[place + 4 : place + 8] != b"jp2c":
            length = int.from_bytes(stream[place : place + 4], "big")
            if length < 8 or place + length >= len(stream) - 8:  # pydicom may go round for ever
                raise DataError("has a broken JP2 header before its pixels.")
            place += length
        place += 8
    return place
