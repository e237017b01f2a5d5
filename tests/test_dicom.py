import numpy as np
import pytest

from medmerge_hf.data import load_target
from medmerge_hf.dicom import is_dicom, read_dicom
from medmerge_hf.errors import DataError


pydicom = pytest.importorskip("pydicom", reason="needs pydicom: pip install 'medmerge_hf[dicom]'")


def write(file, pixels, photometric="MONOCHROME2", **tags):
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(file), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    color = pixels.ndim == 3
    data.Rows, data.Columns, data.SamplesPerPixel = pixels.shape[0], pixels.shape[1], 3 if color else 1
    if color:
        data.PlanarConfiguration = 0
    data.PhotometricInterpretation = photometric
    bits = 8 if color else 16
    data.BitsAllocated = data.BitsStored = bits
    data.HighBit, data.PixelRepresentation = bits - 1, 0
    for name, value in tags.items():
        setattr(data, name, value)
    data.PixelData = pixels.astype(np.uint8 if color else np.uint16).tobytes()
    file.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(file, enforce_file_format=True)
    return file


RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16) * 10


def test_values_are_rescaled_and_windowed(tmp_path):
    file = write(tmp_path / "a.dcm", RAMP, RescaleSlope=1, RescaleIntercept=-1024)
    whole = np.asarray(read_dicom(file))
    assert (whole.min(), whole.max()) == (0, 255)
    lung = np.asarray(read_dicom(file, window=(-600, 400)))
    hounsfield = RAMP.astype(int) - 1024
    assert (lung[hounsfield <= -800] == 0).all()
    assert (lung[hounsfield >= -400] == 255).all()
    assert np.ptp(lung[(hounsfield > -800) & (hounsfield < -400)].astype(int)) > 200


def test_a_window_of_the_file_is_used(tmp_path):
    own = np.asarray(read_dicom(write(tmp_path / "a.dcm", RAMP, WindowCenter=1000, WindowWidth=200)))
    given = np.asarray(read_dicom(write(tmp_path / "b.dcm", RAMP), window=(1000, 200)))
    assert np.abs(own.astype(int) - given.astype(int)).max() <= 2


def test_monochrome1_is_inverted(tmp_path):
    one = np.asarray(read_dicom(write(tmp_path / "a.dcm", RAMP)))
    two = np.asarray(read_dicom(write(tmp_path / "b.dcm", RAMP, photometric="MONOCHROME1")))
    assert np.abs(255 - one.astype(int) - two.astype(int)).max() <= 1


def test_colour_stays_colour(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (4, 4, 3))
    assert (np.asarray(read_dicom(write(tmp_path / "a.dcm", pixels, photometric="RGB"))) == pixels).all()


def test_a_folder_of_dicom_is_a_target(tmp_path):
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for index in range(6):
            name = tmp_path / split / ("ill" if index % 2 else "well") / f"{index}.dcm"
            write(name, random.integers(0, 4000, (8, 8)))
    target = load_target(str(tmp_path))
    assert {split: len(rows) for split, rows in target.items()} == {"train": 6, "validation": 6}
    assert target.classes == ["ill", "well"]
    assert target["train"][0]["image"].size == (8, 8)


def test_what_is_no_dicom_is_refused(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"404")
    with pytest.raises(DataError, match="cannot be read as DICOM"):
        read_dicom(tmp_path / "a.dcm")
    with pytest.raises(DataError, match="a width above 0"):
        read_dicom(write(tmp_path / "b.dcm", RAMP), window=(0, 0))
    assert is_dicom(tmp_path / "b.dcm")
    assert not is_dicom(tmp_path / "a.png")
