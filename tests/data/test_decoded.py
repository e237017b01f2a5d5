import numpy as np
import pytest
from dicom_files import write_dicom
from PIL import Image

from medmerge_hf.data import ImageDataset, decoded, load_target
from medmerge_hf.data.decoded import DecodedImages


def pixels_of(image):
    return np.asarray(image), image.mode


def assert_served_as_rows(target):
    for rows in target.values():
        for index in range(len(rows)):
            item = ImageDataset(rows, pixels_of)[index]
            (pixels, mode), own = item["pixel_values"], rows[index]
            assert mode == own["image"].mode
            np.testing.assert_array_equal(pixels, np.asarray(own["image"]))
            assert item["labels"] == own["label"]


def write(folder, make, count=8):
    for index in range(count):
        place = folder / "ab"[index % 2]
        place.mkdir(parents=True, exist_ok=True)
        make(index, place)
    return folder


def picture(mode, suffix):
    def make(index, place):
        noise = np.random.default_rng(index).integers(0, 256, (9, 7 + index, 3), np.uint8)
        Image.fromarray(noise).convert(mode).save(place / f"{index}{suffix}")

    return make


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("RGB", ".png"),
        ("RGB", ".jpg"),
        ("RGBA", ".png"),
        ("P", ".png"),
        ("CMYK", ".jpg"),
        ("LA", ".png"),
        ("1", ".png"),
    ],
)
def test_images_from_memory_are_those_of_the_rows(tmp_path, mode, suffix):
    assert_served_as_rows(load_target(write(tmp_path / "t", picture(mode, suffix))))


def test_grey_beside_colour_is_served_in_colour(tmp_path):
    folder = write(tmp_path / "t", picture("L", ".png"))
    write(folder, picture("RGB", ".jpg"))
    assert_served_as_rows(load_target(folder))


def test_deep_and_turned_images_are_served_as_they_are_delivered(tmp_path):
    def deep(index, place):
        Image.fromarray(np.random.default_rng(index).integers(0, 4096, (8, 8), np.uint16)).save(place / f"{index}.tif")

    def turned(index, place):
        image = Image.fromarray(np.random.default_rng(index).integers(0, 256, (8, 12, 3), np.uint8))
        image.getexif()[274] = 6
        image.save(place / f"{index}.png", exif=image.getexif())

    assert_served_as_rows(load_target(write(tmp_path / "deep", deep)))

    def scan(index, place):
        write_dicom(place / f"{index}.dcm", np.random.default_rng(index).integers(0, 4096, (8, 8), np.uint16))

    assert_served_as_rows(load_target(write(tmp_path / "turned", turned)))
    assert_served_as_rows(load_target(write(tmp_path / "scans", scan)))


def test_no_image_is_decoded_again(tmp_path):
    target = load_target(write(tmp_path / "t", picture("RGB", ".png")))
    for file in (tmp_path / "t").rglob("*.png"):
        file.unlink()
    assert len([ImageDataset(target["train"], pixels_of)[index] for index in range(len(target["train"]))]) > 3


def test_of_a_set_that_is_too_large_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(decoded, "MOST", 3 * 9 * 7 * 3)
    target = load_target(write(tmp_path / "t", picture("RGB", ".png")))
    assert_served_as_rows(target)
    assert target["train"] not in decoded._ROWS


def test_many_images_without_a_label_do_not_take_the_place_of_those_with_one(tmp_path, monkeypatch):
    folder = write(tmp_path / "t", picture("RGB", ".png"))
    write(tmp_path / "more", picture("RGB", ".jpg"), 40)
    monkeypatch.setattr(decoded, "MOST", 8 * 9 * 15 * 3)
    target = load_target(folder, unlabelled=tmp_path / "more")
    assert target["train"] in decoded._ROWS
    assert target.unlabelled not in decoded._ROWS


def test_memory_is_given_back_with_the_data_set(tmp_path):
    target = load_target(write(tmp_path / "t", picture("RGB", ".png")))
    before = len(decoded._ROWS)
    del target["train"]
    assert len(decoded._ROWS) == before - 1


def test_rows_with_a_format_of_the_users_are_asked_themselves(tmp_path):
    target = load_target(write(tmp_path / "t", picture("RGB", ".png")))
    target["train"].set_transform(lambda rows: {"image": ["mine"] * len(rows["image"]), "label": rows["label"]})
    assert ImageDataset(target["train"], str)[0]["pixel_values"] == "mine"


def test_the_budget_is_a_share_of_free_memory():
    assert 0 < DecodedImages().budget <= decoded.MOST
