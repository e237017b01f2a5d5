import io
import logging

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from medmerge_hf.data.dicom import forget_notes, read_dicom


pydicom = pytest.importorskip("pydicom", reason="needs pydicom: pip install 'medmerge_hf[dicom]'")

from dicom_files import RAMP, linear, lookup_table, near, write_dicom  # noqa: E402
from pydicom import DataElement, uid  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402


COLOURS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


@pytest.fixture
def show(tmp_path):
    """Pixels and tags -> what is read of such a file."""

    def read(pixels, *args, window=None, **tags):
        return np.asarray(read_dicom(write_dicom(tmp_path / "a.dcm", pixels, *args, **tags), window)).astype(int)

    return read


# Windows


@given(
    centre=st.integers(-500, 3000), width=st.integers(1, 4000), function=st.sampled_from(["LINEAR", "LINEAR_EXACT"])
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_ends_of_a_window_are_black_and_white_for_every_file(show, centre, width, function):
    tags = {"BitsStored": 12, "VOILUTFunction": function, "RescaleSlope": 1, "RescaleIntercept": -100}
    for pixels in (RAMP, RAMP // 2, np.full_like(RAMP, 2000)):
        own = show(pixels, WindowCenter=centre, WindowWidth=width, **tags)
        near(own, linear(pixels.astype(int) - 100, centre, width, function == "LINEAR_EXACT"))
        assert (own == show(pixels, window=(centre, width), **tags)).all()


def test_sigmoid(show):
    found = show(RAMP, WindowCenter=1000, WindowWidth=300, VOILUTFunction="SIGMOID")
    near(found, 255 / (1 + np.exp(-4 * (RAMP - 1000.0) / 300)))


def test_a_width_under_1_is_exact_and_a_negative_slope_turns_grey_round(show):
    tags = {"RescaleSlope": -0.0002, "RescaleIntercept": 0.3}
    near(show(RAMP, WindowCenter=0.2, WindowWidth=0.4, **tags), linear(0.3 - RAMP * 0.0002, 0.2, 0.4, exact=True))


def test_one_of_slope_and_intercept_is_enough(show):
    near(show(RAMP, RescaleSlope=2, WindowCenter=2500, WindowWidth=5001), linear(RAMP * 2, 2500, 5001))


def test_of_several_windows_the_first_is_used_and_said_once(show, caplog):
    forget_notes()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            several = show(RAMP, WindowCenter=[1000, 40], WindowWidth=[500, 80])
    assert (several == show(RAMP, WindowCenter=1000, WindowWidth=500)).all()
    assert len([text for text in caplog.messages if "a.dcm has several windows" in text]) == 1


@pytest.mark.parametrize(("entries", "bits", "first"), [(4096, 8, 0), (4096, 12, -300), (64, 16, 500)])
def test_a_voi_lookup_table(show, entries, bits, first):
    values = np.linspace(0, 2**bits - 1, entries).astype(int)[::-1]
    pixels = RAMP.astype(np.int16)
    found = show(pixels, VOILUTSequence=lookup_table(values, bits, first), WindowCenter=40, WindowWidth=80)
    near(found, values[np.clip(pixels - first, 0, entries - 1)] / (2**bits - 1) * 255)


def test_a_modality_lookup_table_comes_before_the_window(show):
    values = (np.arange(2560) ** 2 % 4000).astype(int)
    item = lookup_table(values, 16)
    item[0].ModalityLUTType = "US"
    near(show(RAMP, ModalityLUTSequence=item, WindowCenter=2000, WindowWidth=3000), linear(values[RAMP], 2000, 3000))


@pytest.mark.parametrize(
    ("kind", "shape", "inverted"),
    [
        ("MONOCHROME1", "INVERSE", True),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME1", "", True),
        ("MONOCHROME2", "IDENTITY", False),
    ],
)
def test_monochrome1_and_the_presentation_shape_invert_once(show, kind, shape, inverted):
    found = show(RAMP, kind, PresentationLUTShape=shape, WindowCenter=1000, WindowWidth=4000)
    wanted = linear(RAMP, 1000, 4000)
    near(found, 255 - wanted if inverted else wanted)


def test_a_presentation_lookup_table_is_not_stretched_over_the_image(show):
    item = lookup_table(np.arange(256)[::-1] * 16, 12)
    found = show(RAMP // 2, PresentationLUTSequence=item, WindowCenter=1300, WindowWidth=2563)
    near(found, (255 - np.rint(linear(RAMP // 2, 1300, 2563))) * 16 / 4095 * 255)


def test_values_of_a_single_enhanced_frame_lie_deeper(show):
    group, values, window = Dataset(), Dataset(), Dataset()
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 2, -100, "HU"
    window.WindowCenter, window.WindowWidth = 1000, 3000
    group.PixelValueTransformationSequence, group.FrameVOILUTSequence = [values], [window]
    found = show(RAMP, SharedFunctionalGroupsSequence=[group], NumberOfFrames=1)
    near(found, linear(RAMP.astype(int) * 2 - 100, 1000, 3000))


# Padding and bits


UNSIGNED = DataElement("PixelPaddingValue", "US", 2**16 - 2000)  # as many files give it


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("value", "limit"), [(-2000, None), (-1500, -2000), (UNSIGNED, None)])
def test_padding_is_black_and_takes_no_part_in_the_range(show, kind, value, limit):
    pixels = np.full((16, 16), -2000, np.int16)
    pixels[4:12, 4:12] = np.linspace(0, 80, 64).reshape(8, 8)
    tags = (
        {"PixelPaddingValue": value}
        if limit is None
        else {"PixelPaddingValue": value, "PixelPaddingRangeLimit": limit}
    )
    found = show(pixels, kind, **tags)
    tissue = found[4:12, 4:12]
    wanted = pixels[4:12, 4:12] / 80 * 255
    near(tissue, 255 - wanted if kind == "MONOCHROME1" else wanted)
    assert found[:4].max() == 0


def test_padding_alone_is_black(show):
    assert show(np.full((4, 4), -2000, np.int16), PixelPaddingValue=-2000).max() == 0


def test_bits_above_the_stored_ones_are_no_values(show):
    tags = {"BitsStored": 12, "WindowCenter": 1275, "WindowWidth": 2550}
    assert (show(RAMP | 0x4000, **tags) == show(RAMP, **tags)).all()
    signed = (RAMP.astype(np.int16) - 1200) & 0x0FFF
    near(show(signed, BitsStored=12, WindowCenter=0, WindowWidth=2000), linear(RAMP.astype(int) - 1200, 0, 2000))


def test_plain_grey_of_8_bits_is_not_stretched(show):
    pixels = np.arange(50, 114, dtype=np.uint8).reshape(8, 8)
    assert (show(pixels) == pixels).all()
    assert (show(pixels, "MONOCHROME1") == 255 - pixels.astype(int)).all()


def test_float_pixels(show):
    pixels = np.linspace(-1, 3, 64, dtype=np.float32).reshape(8, 8)
    near(show(pixels), (pixels + 1) / 4 * 255)


# Colour


@pytest.mark.parametrize(("scale", "dtype", "bits"), [(1, np.uint8, 8), (257, np.uint16, 16), (16, np.uint16, 12)])
def test_rgb_of_any_depth_and_plane_order(show, scale, dtype, bits):
    pixels = COLOURS.astype(dtype) * scale
    wanted = pixels / (2**bits - 1) * 255
    near(show(pixels, "RGB", BitsStored=bits), wanted)
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)).tobytes()
    near(show(pixels, "RGB", BitsStored=bits, PlanarConfiguration=1, PixelData=planes), wanted)


@pytest.mark.parametrize(("bits", "first", "pixels"), [(8, 0, np.uint8), (16, 0, np.uint8), (16, 100, np.uint16)])
def test_palettes(show, bits, first, pixels):
    indices = (
        np.arange(0, 320, dtype=np.int64).reshape(16, 20) if pixels == np.uint16 else np.arange(256).reshape(16, 16)
    )
    tables = np.random.default_rng(1).integers(0, 2**bits, (3, 200)).astype(f"<u{bits // 8}")
    tags = {}
    for colour, values in zip(("Red", "Green", "Blue"), tables, strict=True):
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [200, first, bits]
        tags[f"{colour}PaletteColorLookupTableData"] = values.tobytes()
    found = show(indices.astype(pixels), "PALETTE COLOR", **tags)
    near(found, np.moveaxis(tables[:, np.clip(indices - first, 0, 199)], 0, -1) / (2**bits - 1) * 255)


@pytest.mark.parametrize(
    ("kind", "format", "options", "syntax", "tolerance"),
    [
        ("YBR_RCT", "JPEG2000", {"irreversible": False, "mct": 1}, uid.JPEG2000Lossless, 0),
        ("RGB", "JPEG2000", {"irreversible": False, "mct": 0}, uid.JPEG2000Lossless, 0),
        ("YBR_ICT", "JPEG2000", {"irreversible": True, "mct": 1}, uid.JPEG2000, 6),
        ("YBR_FULL_422", "JPEG", {"quality": 95}, uid.JPEGBaseline8Bit, 8),
        ("RGB", "JPEG", {"quality": 95}, uid.JPEGBaseline8Bit, 8),
    ],
)
def test_compressed_colour_is_converted_once(show, kind, format, options, syntax, tolerance):
    smooth = np.array(Image.fromarray(COLOURS[:3, :3]).resize((32, 32)))
    stream = io.BytesIO()
    Image.fromarray(smooth).save(stream, format, **({"no_jp2": True} if format == "JPEG2000" else {}), **options)
    near(show(smooth, kind, encoded=stream.getvalue(), syntax=syntax), smooth, tolerance)


def test_a_window_is_not_for_colour_and_that_is_said(show, caplog):
    forget_notes()
    with caplog.at_level(logging.WARNING):
        assert (show(COLOURS, "RGB", window=(40, 80)) == COLOURS).all()
    assert "in colour, for which dicom_window is not used" in caplog.text
