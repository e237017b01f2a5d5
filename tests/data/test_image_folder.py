import os

import numpy as np
import pytest
from data_files import class_folders, picture, pictures, sizes

from medmerge_hf.data import load_target
from medmerge_hf.errors import DataError


def test_split_words_in_names_of_files_mean_nothing(tmp_path):
    class_folders(tmp_path, 10)
    for index in range(6):
        picture(tmp_path / "ill" / f"train_{index}.png")
        picture(tmp_path / "well" / f"test-{index}.jpg")
    assert sum(sizes(load_target(tmp_path)).values()) == 32


@pytest.mark.parametrize(
    "names", [("Training", "Validation", "Testing"), ("TRAIN", "dev", "hold-out"), ("trn", "val_set", "Test set")]
)
def test_folders_of_splits_may_be_spelled_in_many_ways(tmp_path, names):
    for name, count in zip(names, (4, 3, 2), strict=True):
        class_folders(tmp_path / name, count)
    assert sizes(load_target(tmp_path)) == {"train": 8, "validation": 6, "test": 4}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["sick/left/a.png", "healthy/right/b.png"], "two ways.*healthy, sick.*left, right"),
        (["train/sick/left/a.png", "train/healthy/right/b.png"], "two ways.*healthy, sick.*left, right"),
        (["sick/a.png", "healthy/right/b.png"], "two ways"),
        (["a.png", "b.png"], "2 images lie in no class folder.*nothing to classify"),
        (["sick/a.png", "b.png"], r"1 images lie in no class folder, b\.png"),
        (["train/a.png", "test/b.png"], "called like splits"),
        (["train/sick/a.png", "train/healthy/b.png", "extra/sick/c.png"], "1 images lie in extra, .* like no split"),
        (["set/sick/a.png", "set/healthy/b.png"], "all images lie in 'set'; point at .*/set"),
        ([], "holds no images"),
    ],
)
def test_folders_that_can_be_read_in_two_ways_are_refused(tmp_path, files, message):
    for file in files:
        picture(tmp_path / file)
    with pytest.raises(DataError, match=message):
        load_target(tmp_path)


def test_an_empty_folder_is_a_class_or_a_split_that_is_missed(tmp_path):
    class_folders(tmp_path)
    (tmp_path / "rare").mkdir()
    with pytest.raises(DataError, match="no image of class rare"):
        load_target(tmp_path)
    class_folders(tmp_path / "other" / "train")
    (tmp_path / "other" / "val").mkdir()
    with pytest.raises(DataError, match="'val' of split 'validation' has no image"):
        load_target(tmp_path / "other")


def test_links_are_followed_and_paths_are_taken_as_they_are(tmp_path):
    class_folders(tmp_path / "real", 6, ("a", "b"))
    place = tmp_path / "data [v2] *"
    (place / "train").mkdir(parents=True)
    for name in "ab":
        (place / "train" / name).symlink_to(tmp_path / "real" / name)
    target = load_target(place)
    assert target.classes == ["a", "b"]
    assert sum(sizes(target).values()) == 12
    (tmp_path / "real" / "a" / "round").symlink_to(tmp_path / "real")
    with pytest.raises(DataError, match="link back"):
        load_target(tmp_path / "real")


def test_a_link_to_nothing_is_an_image_that_cannot_be_read(tmp_path):
    class_folders(tmp_path)
    (tmp_path / "ill" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"ill/gone\.png: there is no file"):
        load_target(tmp_path)


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.npy", "clip.mp4", "noend", "a.zip"])
def test_what_may_be_an_image_and_cannot_be_read_is_refused(tmp_path, name):
    class_folders(tmp_path)
    (tmp_path / "ill" / name).write_bytes(b"12345678")
    with pytest.raises(DataError, match=f"ill/{name}: cannot identify"):
        load_target(tmp_path)
    assert len(load_target(tmp_path, skip_unreadable=True).left_out) == 1


def test_an_image_without_a_suffix_is_an_image(tmp_path):
    class_folders(tmp_path)
    (tmp_path / "ill" / "0.png").rename(tmp_path / "ill" / "zero")
    assert sum(sizes(load_target(tmp_path)).values()) == 12


def test_numbers_as_classes_are_in_the_order_of_numbers(tmp_path):
    class_folders(tmp_path, 2, tuple(map(str, range(11))))
    assert load_target(tmp_path).classes == [str(number) for number in range(11)]


def test_a_thousand_classes_with_odd_names(tmp_path):
    names = [f"class {index:04} äß|,'\"" for index in range(200)]
    class_folders(tmp_path, 2, tuple(names))
    assert load_target(tmp_path).classes == names


def test_groups_need_a_table(tmp_path):
    with pytest.raises(DataError, match="List images, labels and groups in a table"):
        load_target(class_folders(tmp_path), group_column="patient")


def test_dicom_lies_beside_pictures(tmp_path):
    pytest.importorskip("pydicom", reason="needs pydicom: pip install 'medmerge_hf[dicom]'")
    from dicom_files import write_dicom

    random = np.random.default_rng(0)
    for name in ("ill", "well"):
        pictures(tmp_path / name, 4)
        for index in range(4):
            write_dicom(tmp_path / name / f"1.2.840.{index}", random.integers(0, 4000, (8, 8)).astype(np.uint16))
    target = load_target(tmp_path, dicom_window=(2000, 4000))
    assert sum(sizes(target).values()) == 16
    rule = {"mode": "RGB", "black": 0, "white": 255, "dicom_images": 8, "dicom_window": [2000, 4000]}
    assert target.pixel_rule == rule


@pytest.mark.parametrize("place", ["x.png", "train/x.png"])
def test_images_outside_of_class_folders_are_named(tmp_path, place):
    for split in ("train", "val"):
        class_folders(tmp_path / split)
    picture(tmp_path / place)
    (tmp_path / "labels.csv").write_text("file,diagnosis\nx.png,a\n")
    message = rf"1 images lie in no class folder, {place} .*labels.csv has the columns \['file', 'diagnosis'\]"
    with pytest.raises(DataError, match=message):
        load_target(tmp_path)


def test_a_licence_beside_the_classes_is_no_image(tmp_path):
    class_folders(tmp_path)
    for name in ("LICENSE", "Makefile", "notes.docx"):
        (tmp_path / name).write_text("x")
    assert len(load_target(tmp_path).left_out) == 3


def test_a_name_that_is_no_utf_8_is_named(tmp_path):
    class_folders(tmp_path)
    try:
        os.rename(tmp_path / "ill" / "0.png", os.fsencode(tmp_path) + b"/ill/caf\xe9.png")
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    with pytest.raises(DataError, match=r"ill/caf.*no UTF-8: rename it"):
        load_target(tmp_path)
