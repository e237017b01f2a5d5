import io
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from medmerge_hf.data import load_target
from medmerge_hf.data.dicom import NoImageError, is_dicom, read_dicom
from medmerge_hf.errors import DataError


pydicom = pytest.importorskip("pydicom", reason="needs pydicom: pip install 'medmerge_hf[dicom]'")

from dicom_files import RAMP, linear, near, write_dicom  # noqa: E402
from pydicom import uid  # noqa: E402
from pydicom.data import get_testdata_file  # noqa: E402
from pydicom.dataset import FileMetaDataset  # noqa: E402
from pydicom.pixels import get_decoder  # noqa: E402
from pydicom.pixels.decoders.base import Decoder  # noqa: E402


def stored(data):
    order = ">" if data.file_meta.TransferSyntaxUID == uid.ExplicitVRBigEndian else "<"
    dtype = np.dtype(f"{order}{'ui'[data.PixelRepresentation]}{data.BitsAllocated // 8}")
    count = data.Rows * data.Columns * data.SamplesPerPixel
    return np.frombuffer(data.PixelData, dtype, count).reshape(data.Rows, data.Columns, -1).squeeze().astype(int)


# pydicom's own files


@pytest.mark.parametrize(
    "name",
    [
        "MR_small.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_implicit.dcm",
        "MR_small_padded.dcm",
        "examples_overlay.dcm",
        "dicomdirtests/77654033/CR1/6154",
        "dicomdirtests/77654033/CT2/17106",
        "dicomdirtests/98892003/MR2/15970",
    ],
)
def test_own_windows_of_real_files(name):
    path = get_testdata_file(name, download=False)
    data = pydicom.dcmread(path)
    values = stored(data) * float(data.get("RescaleSlope", 1)) + float(data.get("RescaleIntercept", 0))
    centre, width = (float(np.ravel(data[tag].value)[0]) for tag in ("WindowCenter", "WindowWidth"))
    wanted = linear(values, centre, width)
    near(np.asarray(read_dicom(path)), 255 - wanted if data.PhotometricInterpretation == "MONOCHROME1" else wanted)


@pytest.mark.parametrize("kind", ["RLE", "jp2klossless", "jpeg_ls_lossless"])
def test_a_compressed_real_file_is_the_uncompressed_one(kind):
    files = [get_testdata_file(name, download=False) for name in ("MR_small.dcm", f"MR_small_{kind}.dcm")]
    if not get_decoder(pydicom.dcmread(files[1]).file_meta.TransferSyntaxUID).is_available:
        pytest.skip("needs pylibjpeg")
    assert read_dicom(files[0]) == read_dicom(files[1])


def test_a_real_file_without_a_window_goes_from_its_lowest_to_its_highest_value():
    path = get_testdata_file("CT_small.dcm", download=False)
    values = stored(pydicom.dcmread(path))
    assert values.min() > -2000  # its padding value, which no pixel has
    near(np.asarray(read_dicom(path)), (values - values.min()) / np.ptp(values) * 255)


@pytest.mark.parametrize(
    "name", ["examples_rgb_color.dcm", "SC_rgb_small_odd.dcm", "ExplVR_BigEnd.dcm", "image_dfl.dcm"]
)
def test_8_bits_of_real_files_are_taken_as_they_lie(name):
    data = pydicom.dcmread(get_testdata_file(name, download=False))
    planar = data.get("PlanarConfiguration")
    wanted = stored(data)
    wanted = wanted.reshape(3, data.Rows, data.Columns).transpose(1, 2, 0) if planar else wanted
    assert (np.asarray(read_dicom(data.filename)) == wanted).all()


def test_the_palette_of_a_real_file():
    data = pydicom.dcmread(get_testdata_file("examples_palette.dcm", download=False))
    tables = [data[f"{name}PaletteColorLookupTableData"].value for name in ("Red", "Green", "Blue")]
    wanted = np.stack([np.frombuffer(values, "<u2")[stored(data)] for values in tables], -1) / 257
    near(np.asarray(read_dicom(data.filename)), wanted)


def test_ybr_of_a_real_file_is_converted_once():
    data = pydicom.dcmread(get_testdata_file("SC_ybr_full_422_uncompressed.dcm", download=False))
    pairs = np.frombuffer(data.PixelData, np.uint8).reshape(-1, 4)[:, [0, 2, 3, 1, 2, 3]].reshape(100, 100, 3)
    y, blue, red = np.moveaxis(pairs.astype(float) - [0, 128, 128], -1, 0)
    wanted = np.stack([y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue], -1).clip(0, 255)
    near(np.asarray(read_dicom(data.filename)), wanted, 1)


BARS = [(255, 0, 0), (255, 128, 128), (0, 255, 0), (128, 255, 128), (0, 0, 255), (128, 128, 255), (0, 0, 0)]
BARS += [(64, 64, 64), (192, 192, 192), (255, 255, 255)]


@pytest.mark.parametrize(
    "name",
    [
        "dcmtk_+eb+cr",
        "dcmtk_+eb+cy+n2",
        "dcmtk_+eb+cy+np",
        "dcmtk_+eb+cy+s4",
        "gdcm_KY",
        "jpeg_gdcm",
        "jpeg_lossy_gdcm",
        "jls_lossy_line",
        "rle",
        "rle_16bit",
        "rle_32bit",
    ],
)
def test_the_colour_bars_of_real_files_in_every_compression(name):
    path = get_testdata_file(f"SC_rgb_{name}.dcm", download=False)
    if not get_decoder(pydicom.dcmread(path).file_meta.TransferSyntaxUID).is_available:
        pytest.skip("needs pylibjpeg")
    near(np.asarray(read_dicom(path))[5::10, 50], np.array(BARS), 5)


@pytest.mark.parametrize(
    "name", ["dicomdirtests/DICOMDIR", "rtplan.dcm", "rtstruct.dcm", "test-SR.dcm", "waveform_ecg.dcm"]
)
def test_kinds_without_pixels_say_so(name):
    with pytest.raises(NoImageError, match=r"holds no picture: it is .* Storage"):
        read_dicom(get_testdata_file(name, download=False))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("MR_truncated.dcm", "less than expected"),
        ("priv_SQ.dcm", "no pixels, though it is MR Image Storage"),
        ("rtdose.dcm", "has 15 frames"),
        ("badVR.dcm", "'1A'"),
        ("JPEG2000-embedded-sequence-delimiter.dcm", "3722445056 columns"),
    ],
)
def test_damaged_real_files_are_refused_by_name(name, reason):
    with pytest.raises(DataError, match=reason) as raised:
        read_dicom(get_testdata_file(name, download=False))
    assert name in str(raised.value)
    assert not isinstance(raised.value, NoImageError)


# What is refused, and what is DICOM


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"WindowCenter": 40, "WindowWidth": 0}, "WindowWidth 0: set dicom_window"),
        ({"WindowCenter": 40, "WindowWidth": 80, "VOILUTFunction": "CUBIC"}, "CUBIC"),
        ({"NumberOfFrames": 2, "Rows": 8}, "has 2 frames"),
        ({"Rows": 8}, "512 bytes of pixels instead of 256"),
        ({"Rows": 17}, "less than expected"),
        ({"Rows": 65535, "Columns": 65535}, "Pillow's limit"),
        ({"RescaleSlope": 0, "RescaleIntercept": 1}, "RescaleSlope 0"),
        ({"BitsStored": 4, "HighBit": 15}, "HighBit 15"),
        ({"PresentationLUTShape": "LIN OD"}, "PresentationLUTShape LIN OD"),
        ({"PhotometricInterpretation": "YBR_RCT"}, "YBR_RCT of 1 samples"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "cannot be read as DICOM"),
    ],
)
def test_tags_that_make_no_picture_are_refused_by_name(tmp_path, tags, reason):
    file = write_dicom(tmp_path / "a.dcm", **tags)
    with pytest.raises(DataError, match=rf"a\.dcm .*{reason}"):
        read_dicom(file)


def test_float_pixels_that_are_not_finite_are_refused(tmp_path):
    file = write_dicom(tmp_path / "a.dcm", np.array([[1, np.nan]], np.float32))
    with pytest.raises(DataError, match="not finite"):
        read_dicom(file)


@pytest.mark.parametrize("window", [(0, 0), (1,), (1, "x"), (float("nan"), 1), "40,80"])
def test_a_window_is_a_centre_and_a_width(tmp_path, window):
    file = write_dicom(tmp_path / "a.dcm")
    with pytest.raises(DataError, match="a centre and a width above 0"):
        read_dicom(file, window)
    with pytest.raises(DataError, match=r"dicom_window=.* is no window"):
        load_target(tmp_path / "not_there", dicom_window=window, skip_unreadable=True)


def test_files_without_a_window_share_the_range_of_the_data_set(tmp_path):
    for name, factor in (("bright", 1), ("dark", 0.5)):
        for index in range(2):
            pixels = (RAMP * factor).astype(np.int16) + index
            pixels[0, 0] = -2000
            (tmp_path / name).mkdir(exist_ok=True)
            write_dicom(tmp_path / name / f"{index}.dcm", pixels, PixelPaddingValue=-2000)
    write_dicom(tmp_path / "dark" / "own.dcm", RAMP, WindowCenter=1275, WindowWidth=2550)
    target = load_target(tmp_path)
    assert target.pixel_rule["dicom_ends"] == [5, 2551]
    assert (target.pixel_rule["dicom_unwindowed"], target.pixel_rule["dicom_images"]) == (4, 5)
    whitest = {(row["label"], np.asarray(row["image"]).max()) for rows in target.values() for row in rows}
    assert whitest == {(0, 255), (1, 127), (1, 255)}
    assert all(np.asarray(row["image"])[0, 0] == 0 for rows in target.values() for row in rows)


@pytest.mark.parametrize("name", ["1.2.840.113619.2.55.1", "scan.IMA", "scan", "scan.DCM", "scan.png"])
def test_dicom_is_known_by_its_preamble(tmp_path, name):
    file = write_dicom(tmp_path / name)
    assert is_dicom(file)
    assert read_dicom(file).size == (16, 16)


def test_a_file_without_preamble_is_read_where_its_name_says_dicom(tmp_path):
    whole = write_dicom(tmp_path / "whole.dcm")
    data = pydicom.dcmread(whole)
    for name, implicit in (("bare.IMA", True), ("bare.dcm", False), ("bare.txt", True)):
        data.preamble, data.file_meta = None, FileMetaDataset()
        pydicom.dcmwrite(tmp_path / name, data, implicit_vr=implicit, little_endian=True)
        assert not is_dicom(tmp_path / name)
    assert read_dicom(tmp_path / "bare.IMA") == read_dicom(tmp_path / "bare.dcm") == read_dicom(whole)
    with pytest.raises(DataError, match=r"bare\.txt is no DICOM"):
        read_dicom(tmp_path / "bare.txt")


@pytest.mark.parametrize("content", [b"", b"404", b"x" * 300, b"\0" * 128 + b"DICM"])
def test_what_is_no_dicom_is_refused(tmp_path, content):
    (tmp_path / "a.dcm").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.dcm"):
        read_dicom(tmp_path / "a.dcm")
    with pytest.raises(DataError, match="is not there"):
        read_dicom(tmp_path / "b.dcm")
    assert not is_dicom(tmp_path)


def test_without_pydicom_the_extra_is_named(tmp_path, monkeypatch):
    file = write_dicom(tmp_path / "a.dcm")
    monkeypatch.delitem(sys.modules, "medmerge_hf.data.dicom_pixels", raising=False)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert is_dicom(file)
    with pytest.raises(DataError, match=r'pip install "medmerge_hf\[dicom\]"'):
        read_dicom(file)


def test_a_compression_that_nothing_decodes_names_the_extra(tmp_path, monkeypatch):
    file = write_dicom(tmp_path / "a.dcm", encoded=b"\xff\xd8\xff\xd9", syntax=uid.JPEGLosslessSV1)
    monkeypatch.setattr(Decoder, "is_available", False)
    with pytest.raises(DataError, match=r'a\.dcm is compressed: pip install "medmerge_hf\[dicom\]" .*JPEG Lossless'):
        read_dicom(file)
    video = write_dicom(tmp_path / "b.dcm", encoded=b"0000", syntax=uid.MPEG2MPML)
    with pytest.raises(DataError, match="MPEG2 Main Profile"):
        read_dicom(video)


@pytest.mark.parametrize("format", ["JPEG", "JPEG2000"])
def test_compressed_pixels_of_another_shape_are_refused_before_they_are_decoded(tmp_path, format):
    stream, options = io.BytesIO(), {"no_jp2": True} if format == "JPEG2000" else {}
    Image.new("L", (32, 8)).save(stream, format, **options)
    syntax = uid.JPEGBaseline8Bit if format == "JPEG" else uid.JPEG2000Lossless
    file = write_dicom(tmp_path / "a.dcm", np.zeros((16, 16), np.uint8), encoded=stream.getvalue(), syntax=syntax)
    with pytest.raises(DataError, match="compressed pixels of 8 rows and 32 columns, but Rows 16, Columns 16"):
        read_dicom(file)


@pytest.mark.parametrize("length", [0, 18, 9999])
def test_a_broken_jp2_header_ends_in_a_refusal(tmp_path, length):
    encoded = b"\0\0\0\x0cjP  \r\n\x87\n" + length.to_bytes(4, "big") + b"ftypjp2 \0\0\0\0"
    file = write_dicom(tmp_path / "a.dcm", encoded=encoded, syntax=uid.JPEG2000)
    with pytest.raises(DataError, match="broken JP2 header"):
        read_dicom(file)


FUZZED = ["MR_small.dcm", "SC_rgb_rle.dcm", "SC_rgb_small_odd_jpeg.dcm", "MR_small_jp2klossless.dcm", "rtplan.dcm"]


@given(data=st.data(), name=st.sampled_from(FUZZED))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_files_end_in_a_data_error_or_a_picture(tmp_path_factory, data, name):
    content = bytearray(Path(get_testdata_file(name, download=False)).read_bytes())
    places = st.integers(132, min(len(content), 3000) - 1)
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=4)):
        content[place] = value
    file = tmp_path_factory.getbasetemp() / "damaged.dcm"
    file.write_bytes(content[: data.draw(st.one_of(st.none(), st.integers(0, len(content))))])
    try:
        text = read_dicom(file).mode
    except DataError as error:
        text = str(error)
    assert text in ("L", "RGB") or str(file) in text
