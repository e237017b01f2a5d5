"""Images without a label: which there are, and that none of them is one that validation or test is measured by."""

from collections import Counter

import numpy as np
import pytest
from data_files import class_folders, noise, npz, picture, pictures, sizes
from PIL import Image

from medmerge_hf.data import ImageDataset, load_target
from medmerge_hf.errors import DataError


def pixels(rows):
    return [np.asarray(image).tobytes() for image in rows["image"]]


def held_back(target):
    return {image for split in target.values() for image in pixels(split)}


@pytest.fixture
def splits(tmp_path):
    for split in ("train", "val", "test"):
        class_folders(tmp_path / "t" / split, 10)
    return tmp_path / "t"


def test_what_label_fraction_spares_is_handed_out_without_a_label(splits):
    few, target = (load_target(splits, label_fraction=0.2, unlabelled=asked) for asked in (False, True))
    assert few.unlabelled is None
    assert sizes(target) == sizes(few) == {"train": 4, "validation": 4, "test": 20}
    assert [pixels(rows) for rows in target.values()] == [pixels(rows) for rows in few.values()]
    assert target.unlabelled.column_names == ["image"]
    assert len(few.left_out) == len(target.unlabelled) == 32
    assert target.left_out == []
    assert not held_back(target) & set(pixels(target.unlabelled))
    assert set(target) == {"train", "validation", "test"}


def test_an_image_without_a_label_has_pixels_alone(splits):
    target = load_target(splits, label_fraction=0.2, unlabelled=True)
    for rows in (target.unlabelled, target.unlabelled.select(range(3))):  # from memory, and decoded
        items = [ImageDataset(rows, np.asarray)[index] for index in range(3)]
        assert [list(item) for item in items] == [["pixel_values"]] * 3
        assert [item["pixel_values"].tobytes() for item in items] == pixels(target.unlabelled)[:3]


def test_an_npz_spares_images_and_has_some_without_labels(tmp_path):
    file = npz(tmp_path / "a.npz", train=40, unlabelled_images=noise(5, 8, 8))
    target = load_target(file, label_fraction=0.25, unlabelled=True)
    assert sum(sizes(target).values()) + len(target.unlabelled) == 45
    assert target.unlabelled.features["image"].mode == target.pixel_rule["mode"] == "L"
    with pytest.raises(DataError, match="pass unlabelled=True"):
        load_target(file)


@pytest.mark.parametrize("place", ["unlabelled", "Unlabeled_images/deep/er", "train", ""])
def test_folders_hold_images_without_a_class(splits, place):
    pictures(splits / place, 3)
    with pytest.raises(DataError, match="Or pass unlabelled=True to use images without a label"):
        load_target(splits)
    target = load_target(splits, unlabelled=True)
    assert target.classes == ["ill", "well"]
    assert len(target.unlabelled) == 3
    assert sizes(target) == {"train": 20, "validation": 20, "test": 20}


def test_a_folder_of_that_name_is_a_class_unless_asked(tmp_path, caplog):
    folder = class_folders(tmp_path / "t", 10, ("ill", "unsup", "well"))
    assert load_target(folder).classes == ["ill", "unsup", "well"]
    assert "pass unlabelled=True if one is no class" in caplog.text
    target = load_target(folder, unlabelled=True)
    assert (target.classes, len(target.unlabelled)) == (["ill", "well"], 10)


def test_an_image_of_a_split_stays_out_in_whatever_file_it_lies(splits):
    for index, split in enumerate(("train", "val", "test")):
        image = Image.open(splits / split / "ill" / "0.png")
        image.convert("RGBA").save(splits / "unlabelled.set.png".replace("set", str(index)))
        image.save(picture(splits / "unlabelled" / f"{index}.tiff"))
    again = picture(splits / "unlabelled" / "4.png")
    Image.open(again).save(splits / "unlabelled" / "5.bmp")
    target = load_target(splits, unlabelled=True)
    assert pixels(target.unlabelled) == [np.asarray(Image.open(again)).tobytes()]
    reasons = Counter(reason for _, reason in target.left_out)
    stands = {f"stands in split {split!r} too": 2 for split in ("train", "validation", "test")}
    assert reasons == {**stands, "stands among the unlabelled images already": 1}


def test_of_the_test_split_nothing_is_used(splits):
    more = pictures(splits / "test", 2)
    Image.open(splits / "test" / more[0]).save(picture(splits / "unlabelled" / "a.bmp"))
    picture(splits / "unlabelled" / "b.png")
    target = load_target(splits, unlabelled=True)
    assert len(target.unlabelled) == 1
    assert dict(target.left_out) == {
        "test/0.png": "of split 'test', without a label",
        "test/1.png": "of split 'test', without a label",
        "unlabelled/a.bmp": "stands in split 'test' too",
    }


def test_asked_for_and_not_there_is_refused(splits):
    with pytest.raises(DataError, match="no image is left to be used without a label"):
        load_target(splits, unlabelled=True)
    Image.open(splits / "test" / "ill" / "0.png").save(picture(splits / "unlabelled" / "a.bmp"))
    with pytest.raises(DataError, match=r"1 were there, the first is unlabelled/a\.bmp: stands in split 'test'"):
        load_target(splits, unlabelled=True)
