"""DICOM files of any pixels and tags, for tests of what is read of them."""

from pathlib import Path
from typing import Any

import numpy as np
from pydicom import DataElement, uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate


RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16) * 10


def write_dicom(
    file: Path,
    pixels: np.ndarray = RAMP,
    photometric: str = "MONOCHROME2",
    encoded: bytes | None = None,
    syntax: str = uid.ExplicitVRLittleEndian,
    **tags: Any,
) -> Path:
    """One frame: `[rows, columns]` or `[rows, columns, 3]`; `encoded` are its bytes in a compressed `syntax`."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
        uid.SecondaryCaptureImageStorage,
        uid.generate_uid(),
    )
    data = FileDataset(str(file), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel, data.PhotometricInterpretation = pixels.shape[2] if pixels.ndim == 3 else 1, photometric
    if pixels.ndim == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = pixels.dtype.itemsize * 8
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    if pixels.dtype.kind == "f":
        data.FloatPixelData = pixels.tobytes()
    else:
        whole = pixels.tobytes()
        data.PixelData = encapsulate([encoded]) if encoded else whole + b"\0" * (len(whole) % 2)
    for name, value in tags.items():
        data.add(value) if isinstance(value, DataElement) else setattr(data, name, value)
    data.HighBit = tags.get("HighBit", data.BitsStored - 1)
    if encoded:
        data["PixelData"].is_undefined_length = True
    data.save_as(file, enforce_file_format=True)
    return file


def lookup_table(values: np.ndarray, bits: int, first: int = 0) -> list[Dataset]:
    """A sequence with one lookup table of 16 bit entries."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(values), first, bits])
    item.add_new("LUTData", "US", [int(value) for value in values])
    return [item]


def linear(values: np.ndarray, centre: float, width: float, exact: bool = False) -> np.ndarray:
    """PS3.3 C.11.2.1.2.1 and C.11.2.1.3.2, scaled to 0..255 and not rounded."""
    low = centre - width / 2 if exact else centre - 0.5 - (width - 1) / 2
    return np.clip((values - low) / (width if exact else max(width - 1, 1e-9)) * 255, 0, 255)


def near(found: np.ndarray, wanted: np.ndarray, tolerance: float = 0.5) -> None:
    """Equal but for rounding."""
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=tolerance + 1e-6)
