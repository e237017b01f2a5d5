import logging

import numpy as np
import pytest
from data_files import class_folders, noise, npz, picture, pictures, sizes, table
from PIL import Image

from medmerge_hf.data import load_target
from medmerge_hf.errors import DataError


@pytest.fixture
def scans(tmp_path):
    """train and val with two classes of six images each."""
    for split in ("train", "val"):
        class_folders(tmp_path / split)
    return tmp_path


def test_a_broken_image_is_named_and_can_be_skipped(scans, caplog):
    broken = scans / "train" / "ill" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(DataError, match=r"1 images of split 'train' cannot be read.*train/ill/3\.png"):
        load_target(scans)
    target = load_target(scans, skip_unreadable=True)
    assert sizes(target) == {"train": 11, "validation": 12}
    assert [what for what, _ in target.left_out] == ["train/ill/3.png"]
    assert "Left out train/ill/3.png" in caplog.text


def test_a_class_that_would_be_left_out_as_a_whole_is_refused(scans):
    for file in (scans / "val" / "ill").iterdir():
        file.write_bytes(b"404")
    with pytest.raises(DataError, match=r"all images of class ill in split 'validation' would be left out"):
        load_target(scans, skip_unreadable=True)


def test_each_reason_is_counted(scans, caplog):
    for name in ("a.png", "b.png"):
        (scans / "train" / "ill" / name).write_bytes(b"404")
    (scans / "train" / "ill" / ".DS_Store").write_bytes(b"")
    (scans / "README.txt").write_text("eyes")
    with caplog.at_level(logging.INFO):
        target = load_target(scans, skip_unreadable=True)
    assert "2 left out: cannot identify image file" in caplog.text
    assert "1 left out: hidden" in caplog.text
    assert "1 left out: no image" in caplog.text
    assert len(target.left_out) == 4


def test_hidden_files_and_companions_are_reported_and_never_refused(scans):
    picture(scans / "train" / ".ipynb_checkpoints" / "a.png")
    (scans / "groups.csv").write_text("file,group\n")
    assert dict(load_target(scans).left_out) == {
        "groups.csv": "no image",
        "train/.ipynb_checkpoints/a.png": "hidden",
    }


def test_a_class_without_training_images_is_refused(scans):
    picture(scans / "val" / "rare" / "0.png")
    with pytest.raises(DataError, match="split 'train' has no image of class rare"):
        load_target(scans)


def test_a_class_that_validation_lacks_is_told(scans, caplog):
    pictures(scans / "train" / "rare", 3)
    assert load_target(scans).classes == ["ill", "rare", "well"]
    assert "split 'validation' has no image of class rare" in caplog.text


def test_one_class_is_nothing_to_classify(tmp_path):
    with pytest.raises(DataError, match="nothing to classify"):
        load_target(npz(tmp_path / "a.npz", labels=np.zeros((12, 1), dtype=np.int64)))


def test_images_that_stand_in_two_splits_are_told_and_can_be_left_out(tmp_path, caplog):
    val = noise(6, 8, 8)
    test = np.concatenate([val[:1], noise(5, 8, 8)])
    labels = np.arange(6)[:, None] % 3
    file = npz(tmp_path / "a.npz", val_images=val, val_labels=labels, test_images=test, test_labels=labels)
    assert sizes(load_target(file))["validation"] == 6
    assert "1 images of split 'validation' also stand in a split that is held back" in caplog.text
    target = load_target(file, drop_duplicates=True)
    assert sizes(target)["validation"] == 5
    assert target.left_out == [("a.npz val_images[0]", "stands in split 'test' too")]


def test_an_image_with_two_labels_is_told(tmp_path, caplog):
    pixels = noise(8, 8)
    for name in ("ill", "well"):
        pictures(tmp_path / name, 4)
        picture(tmp_path / name / "same.png", pixels)
    load_target(tmp_path)
    assert "stand twice with different labels, the first are ill/same.png and well/same.png" in caplog.text


def test_a_group_in_two_splits_is_refused(tmp_path):
    columns = {"image": pictures(tmp_path, 8), "label": ["a", "b"] * 4, "split": ["train"] * 5 + ["val"] * 3}
    file = table(tmp_path / "t.csv", **columns, patient=[index // 2 for index in range(8)])
    with pytest.raises(DataError, match=r"group '2' is in the splits 'train' and 'validation'"):
        load_target(file, group_column="patient")


def test_a_row_without_a_group_is_named(tmp_path):
    patients = ["p1", "p1", None, "p2", None, "p3"]
    file = table(tmp_path / "t.csv", image=pictures(tmp_path, 6), label=["a", "b"] * 3, patient=patients)
    with pytest.raises(DataError, match=r"2 rows have no group in column 'patient'.*t\.csv row 4"):
        load_target(file, group_column="patient")


def test_images_that_stand_twice_in_a_split_are_told(scans, caplog):
    picture(scans / "train" / "ill" / "again.bmp", np.asarray(Image.open(scans / "train" / "ill" / "0.png")))
    load_target(scans)
    assert "1 images of split 'train' stand there more than once" in caplog.text


def test_a_near_duplicate_stays(scans, caplog):
    pixels = np.array(Image.open(scans / "val" / "ill" / "0.png"))
    pixels[0, 0, 0] ^= 1
    picture(scans / "train" / "ill" / "near.png", pixels)
    assert sizes(load_target(scans, drop_duplicates=True))["train"] == 13
    assert "stand" not in caplog.text


def test_blanks_around_a_group_make_no_other_group(tmp_path):
    patients = ["p1", "p1 ", "p2", " p2", "p3", "p3", "p4", "p4"]
    file = table(tmp_path / "t.csv", image=pictures(tmp_path, 8), label=["a", "b"] * 4, patient=patients)
    target = load_target(file, group_column="patient", validation_fraction=0.5)
    assert not set(target["train"]["group"]) & set(target["validation"]["group"])
    assert {group for rows in target.values() for group in rows["group"]} == {"p1", "p2", "p3", "p4"}
