"""Images without a label that lie in other data, in any form, and in tables."""

from collections import Counter

import datasets
import numpy as np
import pytest
from data_files import class_folders, noise, npz, picture, pictures, pixels, sizes, table
from dicom_files import write_dicom
from PIL import Image

from medmerge_hf.data import ImageDataset, load_target
from medmerge_hf.errors import DataError


def rows_of(count, **columns):
    images = [Image.fromarray(noise(8, 8, 3)) for _ in range(count)]
    features = datasets.Features({"image": datasets.Image()})
    found = datasets.Dataset.from_dict({"image": images}, features)
    for name, values in columns.items():
        found = found.add_column(name, values)
    return found


@pytest.fixture
def eyes(tmp_path):
    for split in ("train", "val", "test"):
        class_folders(tmp_path / "eyes" / split, 4)
    return tmp_path / "eyes"


def flat(folder):
    pictures(folder, 5)
    (folder / "notes.txt").write_text("scans")
    return folder


def nested(folder):
    for place in ("train", "test/ill", "val/a/b/c", "", "unlabelled"):
        picture(folder / place / "x.png")
    return folder


def csv_of_one_column(folder):
    return table(folder / "pool.csv", image=pictures(folder, 5))


def csv_with_labels(folder):
    names = pictures(folder, 5)
    return table(folder / "pool.csv", image=names, label=["what", "ever", "", "7", "ill|well"], split=["test"] * 5)


def workbook(folder):
    pytest.importorskip("openpyxl", reason="needs openpyxl: pip install 'medmerge_hf[tables]'")
    return table(folder / "pool.xlsx", image=pictures(folder, 5))


def json_lines(folder):
    return table(folder / "pool.jsonl", image=pictures(folder, 5), label=[[1, 2], "a", None, 3.5, {"a": 1}])


def parquet(folder):
    rows_of(5, label=[1.5] * 5).to_parquet(folder / "pool.parquet")
    return folder / "pool.parquet"


def shards(folder):
    for shard in range(2):
        rows_of(2 + shard).to_parquet(folder / f"test-{shard:05}-of-00002.parquet")
    return folder


def medmnist(folder):
    arrays = {"test_images": noise(2, 8, 8), "test_labels": np.zeros((2, 3)), "odd_labels": np.zeros(9)}
    return npz(folder / "pool.npz", train=3, labels=np.zeros(7), **arrays)


def dicom(folder):
    pytest.importorskip("pydicom", reason="needs pydicom: pip install 'medmerge_hf[dicom]'")
    for index in range(5):
        write_dicom(folder / f"scan{index}", noise(8, 8))
    return folder


def saved(folder):
    parts = {"train": rows_of(2, label=[0, 1]), "extra": rows_of(3)}
    datasets.DatasetDict(parts).save_to_disk(str(folder))
    return folder


def saved_with_a_column_of_its_own(folder):
    rows_of(5, mask=["a"] * 5).rename_column("image", "scan").save_to_disk(str(folder))
    return folder


FORMS = [flat, nested, csv_of_one_column, csv_with_labels, workbook, json_lines, parquet, shards, medmnist, dicom]


@pytest.mark.parametrize("form", [*FORMS, saved, saved_with_a_column_of_its_own])
def test_every_form_adds_its_images_and_no_label_or_split_of_it_is_read(eyes, tmp_path, form):
    (tmp_path / "pool").mkdir()
    pool = form(tmp_path / "pool")
    target = load_target(eyes, unlabelled=pool)
    assert len(target.unlabelled) == 5
    assert target.unlabelled_from == str(pool).rsplit("/", 1)[-1].removesuffix(".npz")
    assert (sizes(target), target.classes) == ({"train": 8, "validation": 8, "test": 8}, ["ill", "well"])
    assert {image.mode for image in target.unlabelled["image"]} == {"RGB"} == {target.pixel_rule["mode"]}
    assert all(what.startswith(f"{pool}: ") for what, _ in target.left_out)


def test_images_on_the_hub_are_pinned(eyes, hub):
    rows_of(5, label=[0, 1, 0, 1, 0]).rename_column("image", "picture").push_to_hub("tester/pool")
    first = hub.repos["datasets", "tester/pool"].refs["main"]
    for pool in ("tester/pool", f"tester/pool@{first}"):
        target = load_target(eyes, unlabelled=pool)
        assert (len(target.unlabelled), target.unlabelled_from) == (5, f"tester/pool@{first}")
    with pytest.raises(DataError, match="nobody/pool"):
        load_target(eyes, unlabelled="nobody/pool@main")


def test_the_folder_of_the_data_itself_adds_nothing(eyes):
    with pytest.raises(DataError, match=r"no image is left .*24 were there"):
        load_target(eyes, unlabelled=eyes)
    target = load_target(eyes, label_fraction=0.5, unlabelled=eyes)
    spared = load_target(eyes, label_fraction=0.5, unlabelled=True)
    assert pixels(target.unlabelled) == pixels(spared.unlabelled)
    assert len(target.left_out) == 24


def test_test_images_that_were_saved_otherwise_stay_out(eyes, tmp_path):
    with Image.open(eyes / "test" / "ill" / "0.png") as image:
        image.convert("RGBA").save(picture(tmp_path / "pool" / "a.png"))
        image.save(tmp_path / "pool" / "b.bmp")
        turned = image.transpose(Image.Transpose.ROTATE_90)  # and a tag that turns it back
        turned.getexif()[274] = 6
        turned.save(tmp_path / "pool" / "c.png", exif=turned.getexif())
    picture(tmp_path / "pool" / "d.png")
    target = load_target(eyes, unlabelled=tmp_path / "pool")
    assert len(target.unlabelled) == 1
    assert [reason for _, reason in target.left_out] == ["stands in split 'test' too"] * 3


def test_grey_stays_grey_and_colour_among_it_makes_all_colour(tmp_path):
    file = npz(tmp_path / "a.npz", train=12)
    picture(tmp_path / "pool" / "a.png", noise(8, 8))
    target = load_target(file, unlabelled=tmp_path / "pool")
    assert target.unlabelled[0]["image"].mode == target["train"][0]["image"].mode == "L"
    Image.fromarray(noise(8, 8, 4)).save(tmp_path / "pool" / "b.png")
    target = load_target(file, unlabelled=tmp_path / "pool")
    modes = {ImageDataset(rows, lambda image: image.mode)[0]["pixel_values"] for rows in target.values()}
    assert modes == {image.mode for image in target.unlabelled["image"]} == {"RGB"}


def test_black_and_white_are_those_of_all_deep_images(tmp_path, caplog):
    for index in range(8):
        values = np.full((4, 4), 257 * (index + 1), np.uint16)
        picture(tmp_path / "data" / "ab"[index % 2] / f"{index}.png", values)
    picture(tmp_path / "pool" / "bright.png", np.full((4, 4), 60000, np.uint16))
    alone, target = (load_target(tmp_path / "data", **more) for more in ({}, {"unlabelled": tmp_path / "pool"}))
    assert (alone.pixel_rule["white"], target.pixel_rule["white"]) == (4095, 65535)
    assert "65535 is white, which are 0 and 4095 without them" in caplog.text
    assert np.asarray(target.unlabelled[0]["image"]).max() == round(60000 / 257)
    levels = [np.asarray(image).max() for rows in target.values() for image in rows["image"]]
    assert sorted(levels) == list(range(1, 9))
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "pool" / "fraction.tif")
    with pytest.raises(DataError, match=r"pool: fraction\.tif is of kind float"):
        load_target(tmp_path / "data", unlabelled=tmp_path / "pool")


def test_what_cannot_be_read_is_refused_or_left_out(eyes, tmp_path):
    pool = flat(tmp_path / "pool")
    (pool / "broken.png").write_bytes(b"404")
    with pytest.raises(DataError, match=r"1 images of split 'unlabelled' cannot be read.*pool: broken\.png"):
        load_target(eyes, unlabelled=pool)
    target = load_target(eyes, unlabelled=pool, skip_unreadable=True)
    assert len(target.unlabelled) == 5
    assert {what for what, _ in target.left_out} == {f"{pool}: broken.png", f"{pool}: notes.txt"}
    for index in range(5):
        (pool / f"{index}.png").write_bytes(b"404")
    with pytest.raises(DataError, match="no image is left to be used without a label"):
        load_target(eyes, unlabelled=pool, skip_unreadable=True)


@pytest.mark.parametrize("given", ["", None, 1, 0.5, ["a"], b"pool"])
def test_what_says_no_place_is_refused(eyes, given):
    with pytest.raises(DataError, match="unlabelled="):
        load_target(eyes, unlabelled=given)


def test_places_without_images_are_refused(eyes, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty' holds no images"):
        load_target(eyes, unlabelled=tmp_path / "empty")
    with pytest.raises(DataError, match=r"nowhere.*no such folder or table"):
        load_target(eyes, unlabelled=tmp_path / "nowhere")
    file = table(tmp_path / "t.csv", scan=pictures(tmp_path, 2), age=[1, 2])
    with pytest.raises(DataError, match=r"no column 'image', only \['scan', 'age'\]: give its column of images that"):
        load_target(eyes, unlabelled=file)


def test_no_group_of_validation_or_test_is_used(tmp_path):
    names, more = pictures(tmp_path, 12), pictures(tmp_path / "more", 5)
    splits, groups = ["train"] * 6 + ["val"] * 3 + ["test"] * 3, ["a", "a", "b", "b", "c", "c", *"dddeee"]
    file = table(tmp_path / "t.csv", image=names, label=["x", "y"] * 6, patient=groups, split=splits)
    pool = table(tmp_path / "more" / "p.csv", image=more, patient=["a", "d", "e", "new", None])
    target = load_target(file, group_column="patient", unlabelled=pool)
    assert len(target.unlabelled) == 2
    reasons = Counter(reason for _, reason in target.left_out)
    assert reasons == {
        "its group stands in split 'validation'": 1,
        "its group stands in split 'test'": 1,
        "no group is known that could be kept out of validation and test": 1,
    }
    folder = load_target(file, group_column="patient", unlabelled=tmp_path / "more")  # its table has the column
    assert len(folder.unlabelled) == 2


def test_images_that_name_no_groups_are_told(tmp_path, caplog):
    file = table(tmp_path / "t.csv", image=pictures(tmp_path, 8), label=["x", "y"] * 4, patient=list("abcdefgh"))
    pictures(tmp_path / "more", 3)
    assert len(load_target(file, group_column="patient", unlabelled=tmp_path / "more").unlabelled) == 3
    assert "more names no groups" in caplog.text
