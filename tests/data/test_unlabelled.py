"""Images without a label: which there are, and that none of them is one that validation or test is measured by."""

from collections import Counter

import datasets
import numpy as np
import pandas as pd
import pytest
from data_files import class_folders, noise, npz, picture, pictures, pixels, sizes, table
from PIL import Image

from medmerge_hf.data import ImageDataset, load_target
from medmerge_hf.errors import DataError


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


@pytest.mark.parametrize(
    ("form", "labels"),
    [
        ("t.csv", ["ill", "well"] * 4 + ["", " ", "\t", None]),
        ("t.csv", ["0", "1"] * 4 + ["", "-1", " -1 ", "-1.0"]),
        ("t.tsv", [True, False] * 4 + [None] * 4),
        ("t.xlsx", [0, 1] * 4 + [None, -1, "", " "]),
        ("t.jsonl", ["ill", "well"] * 4 + [None, "", [], [None]]),
        ("t.jsonl", [0, 1] * 4 + [None, float("nan"), -1, [-1]]),
        ("t.parquet", ["ill", "well"] * 4 + [None, "", " ", None]),
        ("t.parquet", [0.0, 1.0] * 4 + [None, float("nan"), -1.0, None]),
        ("t.parquet", pd.Categorical(["well", "ill"] * 4 + [None] * 4, ["well", "ill"])),
    ],
)
def test_rows_without_a_label_are_used_without_one(tmp_path, form, labels):
    if "xlsx" in form:
        pytest.importorskip("openpyxl", reason="needs openpyxl: pip install 'medmerge_hf[tables]'")
    file = table(tmp_path / form, image=pictures(tmp_path, 12), label=labels)
    with pytest.raises(DataError, match=r"unlabelled=True|without a gap|is not a name as|is of no class"):
        load_target(file)
    target = load_target(file, unlabelled=True)
    assert (sum(sizes(target).values()), len(target.unlabelled), len(target.classes)) == (8, 4, 2)
    if not isinstance(labels, list):
        assert target.classes == ["well", "ill"]


def test_minus_one_among_names_is_a_name(tmp_path):
    file = table(tmp_path / "t.csv", image=pictures(tmp_path, 12), label=["-1", "ill", "well"] * 3 + [""] * 3)
    assert load_target(file, unlabelled=True).classes == ["-1", "ill", "well"]


@pytest.mark.parametrize(
    ("form", "labels", "unknown"),
    [
        ("t.csv", ["a|b", "a", "", "b"] * 3, 0),
        ("t.jsonl", [["a", "b"], ["b"], [], ""] * 2 + ["a", "b", None, None], 2),
        ("t.jsonl", [[0, 1], [1, 0], [0, 0], [1, 1]] * 2 + [[1, 0], [0, 1], None, [None, None]], 2),
    ],
)
def test_none_of_several_labels_is_a_label_and_a_missing_value_is_none(tmp_path, form, labels, unknown):
    file = table(tmp_path / form, image=pictures(tmp_path, 12), label=labels)
    if not unknown:
        with pytest.raises(DataError, match="no image is left to be used without a label"):
            load_target(file, multi_label=True, unlabelled=True)
        return
    target = load_target(file, multi_label=True, unlabelled=True)
    assert len(target.unlabelled) == unknown
    told = [sum(label) for rows in target.values() for label in rows["label"]]
    assert (len(told), told.count(0)) == (12 - unknown, sum(label in ([], "", [0, 0]) for label in labels))


def test_a_split_of_that_name_is_used_and_its_labels_are_not_read(tmp_path, caplog):
    splits = ["train"] * 6 + ["val"] * 2 + ["un-labelled"] * 3 + ["test"]
    labels = ["a", "b"] * 4 + ["nobody knows", "", "a", ""]
    file = table(tmp_path / "t.csv", image=pictures(tmp_path, 12), label=labels, split=splits)
    with pytest.raises(DataError, match=r"3 images of split 'un-labelled'.*, or pass unlabelled=True"):
        load_target(file)
    with caplog.at_level("INFO"):
        target = load_target(file, unlabelled=True)
    assert "2 labels of images of an unlabelled split are not read" in caplog.text
    assert (target.classes, len(target.unlabelled)) == (["a", "b"], 3)
    assert sizes(target) == {"train": 6, "validation": 2}
    assert target.left_out == [("t.csv row 13 (11.png)", "of split 'test', without a label")]


def test_a_folder_of_tables_has_tables_and_images_without_labels(tmp_path):
    names = pictures(tmp_path / "images", 14)
    paths = [f"images/{name}" for name in names]
    table(tmp_path / "train.csv", image=paths[:8], label=["a", "b"] * 4)
    table(tmp_path / "unlabeled.csv", image=paths[8:10], age=[50, 60])
    table(tmp_path / "test.csv", image=paths[10:12], age=[50, 60])
    table(tmp_path / "ages.csv", image=paths[8:10], age=[50, 60])
    with pytest.raises(DataError, match="or pass unlabelled=True or skip_unreadable=True"):
        load_target(tmp_path)
    target = load_target(tmp_path, unlabelled=True)
    assert (sum(sizes(target).values()), len(target.unlabelled)) == (8, 4)
    assert [what for what, _ in target.left_out if "test" in what] == [
        f"test.csv row {row} ({paths[row + 8]})" for row in (2, 3)
    ]
    assert ("ages.csv", "lists no images") in target.left_out
    picture(tmp_path / "masks" / "0.png")
    with pytest.raises(DataError, match=r"folder 'masks'.*or call it unlabelled"):
        load_target(tmp_path, unlabelled=True)
    (tmp_path / "masks").rename(tmp_path / "unlabelled")
    with pytest.raises(DataError, match=r"folder 'unlabelled'.*or pass unlabelled=True"):
        load_target(tmp_path)


def test_a_saved_split_may_lack_labels(tmp_path):
    images = [Image.fromarray(noise(8, 8)) for _ in range(12)]
    labelled = datasets.Dataset.from_dict(
        {"image": images[:8], "label": [0, 1] * 4},
        datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["well", "ill"])}),
    )
    bare = datasets.Dataset.from_dict({"image": images[8:]}, datasets.Features({"image": datasets.Image()}))
    datasets.DatasetDict({"train": labelled, "unlabeled": bare}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match=r"\(unlabeled\) has no column 'label'.*or pass unlabelled=True"):
        load_target(tmp_path / "saved")
    target = load_target(tmp_path / "saved", unlabelled=True)
    assert (target.classes, len(target.unlabelled)) == (["well", "ill"], 4)
    bare = bare.add_column("label", [-1] * 4).cast(labelled.features)
    datasets.DatasetDict({"train": labelled, "valid": bare}).save_to_disk(str(tmp_path / "minus"))
    with pytest.raises(DataError, match=r"\['-1'\] outside .*or pass unlabelled=True"):
        load_target(tmp_path / "minus")
    assert len(load_target(tmp_path / "minus", unlabelled=True).unlabelled) == 4


@pytest.mark.parametrize("group", ["patient", None])
def test_spared_images_of_patients_in_validation_stay_out(tmp_path, group):
    patients = [str(index // 4) for index in range(40)]
    splits = ["train"] * 20 + ["val"] * 20
    columns = {"label": ["a", "b"] * 20, "patient": patients, "split": splits}
    file = table(tmp_path / "t.csv", image=pictures(tmp_path, 40), **columns)
    target = load_target(file, label_fraction=0.1, group_column=group, unlabelled=True)
    held = {row["group"] for row in target["validation"]} if group else set()
    assert sum(sizes(target).values()) + len(target.unlabelled) + len(target.left_out) == 40
    assert len(target.left_out) == 4 * len(held) - (2 if group else 0)


def test_the_way_out_is_named_only_where_it_leads_out(tmp_path):
    labels, splits = ["a", "b"] * 5 + [""] * 2, ["train"] * 6 + ["val"] * 4 + ["test"] * 2
    file = table(tmp_path / "t.csv", image=pictures(tmp_path, 12), label=labels, split=splits)
    with pytest.raises(DataError, match=r"without a label, .* take the row out\."):  # images to be tested by
        load_target(file)
    class_folders(tmp_path / "kaggle" / "train", 8)
    pictures(tmp_path / "kaggle" / "test", 3)
    with pytest.raises(DataError, match=r"no class folder, test/0\.png.*list the images in a table\.$"):
        load_target(tmp_path / "kaggle")
    target = load_target(tmp_path / "kaggle", label_fraction=0.5, unlabelled=True)
    assert {reason for _, reason in target.left_out} == {"of split 'test', without a label"}
    (tmp_path / "kaggle" / "extra").mkdir()
    pictures(tmp_path / "kaggle" / "extra", 3)
    with pytest.raises(DataError, match=r"3 images lie in extra, .*call it unlabelled, and pass unlabelled=True"):
        load_target(tmp_path / "kaggle", unlabelled=True)
    (tmp_path / "kaggle" / "extra").rename(tmp_path / "kaggle" / "unlabelled")
    assert len(load_target(tmp_path / "kaggle", unlabelled=True).unlabelled) == 3


def test_a_training_split_without_any_label_is_refused(tmp_path):
    splits = ["train"] * 6 + ["val"] * 4
    file = table(tmp_path / "t.csv", image=pictures(tmp_path, 10), label=[""] * 6 + ["a", "b"] * 2, split=splits)
    with pytest.raises(DataError, match="no training image has a label"):
        load_target(file, unlabelled=True)
    file = table(tmp_path / "t.csv", image=pictures(tmp_path, 10), label=[""] * 10, age=range(10))
    with pytest.raises(DataError, match="no image has a label"):
        load_target(file, unlabelled=True)
