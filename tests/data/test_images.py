import io
import struct
import zlib

import numpy as np
import pytest
from data_files import noise, npz, picture
from PIL import Image

from medmerge_hf.data import load_target
from medmerge_hf.errors import DataError


RAMP = np.tile(np.linspace(0, 1, 32), (32, 1))


def folder(path, pixels, suffix):
    """Two classes in train and val; the images of a class are `pixels`, those of the other half as bright."""
    for split in ("train", "val"):
        for name, factor in (("bright", 1), ("dark", 0.5)):
            image = (pixels * factor).astype(pixels.dtype)
            picture(path / split / name / f"a{suffix}", image[::-1] if split == "val" else image)
    return path


def bright(target):
    return np.asarray(next(row["image"] for row in target["train"] if row["label"] == 0))


@pytest.mark.parametrize(
    ("pixels", "suffix", "white"),
    [
        ((RAMP * 65535).astype(np.uint16), ".png", 65535),
        ((RAMP * 4095).astype(np.uint16), ".png", 4095),
        ((RAMP * 1000).astype(np.uint16), ".tif", 1023),
        (RAMP.astype(np.float32), ".tif", 1),
        ((RAMP * 100000).astype(np.int32), ".tif", 100000),
        ((RAMP * 0.01).astype(np.float32), ".tif", np.float32(0.01)),
    ],
)
def test_deep_images_are_scaled_by_one_stated_rule(tmp_path, pixels, suffix, white):
    target = load_target(folder(tmp_path, pixels, suffix))
    assert target.pixel_rule == {"mode": "L", "black": 0, "white": white, "deep_images": 4}
    assert np.abs(bright(target) / 255 - pixels / white).max() <= 0.5 / 255 + 1e-6
    dark = np.asarray(target["train"][1]["image"])
    assert dark.max() == pytest.approx(pixels.max() / white * 255 / 2, abs=1)


def test_values_outside_of_the_usual_ranges_go_from_the_lowest_to_the_highest(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 8, 8)).astype(np.float32)
    target = load_target(npz(tmp_path / "a.npz", 20, train_images=x))
    assert (target.pixel_rule["black"], target.pixel_rule["white"]) == (x.min(), x.max())


@pytest.mark.parametrize("dtype", [np.uint16, np.int64, np.float32, np.float64])
def test_whole_numbers_of_8_bits_keep_their_values_in_any_type(tmp_path, dtype):
    x = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3)).astype(dtype)
    target = load_target(npz(tmp_path / "a.npz", 20, train_images=x))
    seen = {np.asarray(row["image"]).tobytes() for rows in target.values() for row in rows}
    assert seen == {image.astype(np.uint8).tobytes() for image in x}


def test_truth_values_are_black_and_white(tmp_path):
    x = np.random.default_rng(0).random((20, 8, 8)) > 0.5
    target = load_target(npz(tmp_path / "a.npz", 20, train_images=x))
    assert set(np.unique(target["train"][0]["image"])) == {0, 255}


def test_deep_images_of_two_kinds_are_refused(tmp_path):
    for split in ("train", "val"):
        picture(tmp_path / split / "a" / "x.tif", RAMP.astype(np.float32))
        picture(tmp_path / split / "b" / "x.png", (RAMP * 60000).astype(np.uint16))
    with pytest.raises(DataError, match=r"No one rule.*x\.(tif|png)"):
        load_target(tmp_path)


def test_values_that_are_no_numbers_are_named(tmp_path):
    pixels = RAMP.astype(np.float32)
    folder(tmp_path, pixels, ".tif")
    picture(tmp_path / "train" / "dark" / "nan.tif", np.where(pixels > 0.5, np.nan, pixels).astype(np.float32))
    with pytest.raises(DataError, match=r"dark/nan\.tif: it holds NaN"):
        load_target(tmp_path)


def png16(file, pixels):
    """A PNG of 16 bits a colour, which Pillow does not write."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = pixels.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    file.parent.mkdir(parents=True, exist_ok=True)
    content = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


@pytest.mark.parametrize("bits", [16, 12])
def test_colour_of_16_bits_is_taken_whole_or_refused(tmp_path, bits):
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in "ab":
            png16(tmp_path / split / name / "x.png", random.integers(0, 2**bits, (8, 8, 3)))
    if bits == 12:
        with pytest.raises(DataError, match=r"x\.png is colour of 16 bits, .*fewer bits"):
            load_target(tmp_path)
    else:
        assert load_target(tmp_path).pixel_rule == {"mode": "RGB", "black": 0, "white": 65535, "deep_images": 4}


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK", "LA", "1", "L", "RGB"])
def test_usual_modes_become_what_pillow_makes_of_them(tmp_path, mode):
    suffix = ".tif" if mode == "CMYK" else ".png"
    made = {}
    for split in ("train", "val"):
        for name in "ab":
            made[split, name] = Image.fromarray(noise(8, 8, 3)).convert(mode)
            (tmp_path / split / name).mkdir(parents=True)
            made[split, name].save(tmp_path / split / name / f"x{suffix}")
    target = load_target(tmp_path)
    wanted = "L" if mode in ("L", "LA", "1") else "RGB"
    assert target.pixel_rule == {"mode": wanted, "black": 0, "white": 255}
    for row, name in zip(target["train"], "ab", strict=True):
        assert row["image"].mode == wanted
        assert (np.asarray(row["image"]) == np.asarray(made["train", name].convert(wanted))).all()


def test_grey_beside_colour_is_grey_in_colour(tmp_path):
    for split in ("train", "val"):
        picture(tmp_path / split / "a" / "x.png", noise(8, 8))
        picture(tmp_path / split / "b" / "x.png")
    images = load_target(tmp_path)["train"]["image"]
    assert [image.mode for image in images] == ["RGB", "RGB"]
    grey = np.asarray(images[0])
    assert (grey[..., 0] == grey[..., 2]).all()


def test_several_frames_are_refused_by_name(tmp_path):
    folder(tmp_path, (RAMP * 255).astype(np.uint8), ".png")
    pages = [Image.fromarray(noise(8, 8)) for _ in range(3)]
    pages[0].save(tmp_path / "train" / "dark" / "pages.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match=r"dark/pages\.tif: it has 3 frames"):
        load_target(tmp_path)


def test_an_image_is_turned_upright_as_it_is_delivered(tmp_path):
    pixels = noise(8, 12, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    for split in ("train", "val"):
        for name in "ab":
            picture(tmp_path / split / name / "x.png")
    Image.fromarray(pixels).save(tmp_path / "train" / "a" / "turned.png", exif=exif)
    Image.fromarray(np.rot90(pixels, -1)).save(tmp_path / "val" / "a" / "upright.png")
    target = load_target(tmp_path, drop_duplicates=True)
    assert [what for what, _ in target.left_out] == ["train/a/turned.png"]


def test_a_deep_image_keeps_its_bytes_in_a_table_of_encoded_images(tmp_path):
    from datasets import Dataset, Features, Value

    def encoded(index):
        stream = io.BytesIO()
        Image.fromarray((RAMP * 60000).astype(np.uint16) + index).save(stream, "PNG")
        return stream.getvalue()

    features = Features({"image": Value("binary"), "label": Value("string")})
    rows = {"image": [encoded(index) for index in range(8)], "label": ["a", "b"] * 4}
    Dataset.from_dict(rows, features).to_parquet(tmp_path / "t.parquet")
    target = load_target(tmp_path / "t.parquet")
    assert target.pixel_rule["white"] == 65535
    assert len(np.unique(target["train"][0]["image"])) == 32


def test_8_bits_beside_deeper_images_are_told(tmp_path, caplog):
    folder(tmp_path, (RAMP * 255).astype(np.uint8), ".png")
    picture(tmp_path / "train" / "dark" / "deep.png", (RAMP * 60000).astype(np.uint16))
    load_target(tmp_path)
    assert "1 images have more than 8 bits (train/dark/deep.png), 4 have 8" in caplog.text


@pytest.mark.parametrize(
    ("content", "reason"), [(b"404", "begins with b'404'"), (bytes(128) + b"DICM", "save it as a")]
)
def test_bytes_of_a_table_that_are_no_image_say_what_they_are(tmp_path, content, reason):
    from datasets import Dataset

    Dataset.from_dict({"image": [content] * 8, "label": ["a", "b"] * 4}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=rf"t.parquet row 1: .*{reason}"):
        load_target(tmp_path / "t.parquet")
