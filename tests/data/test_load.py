import os
import pickle

import numpy as np
import pytest
import torch
from data_files import class_folders, npz, pictures, sizes, table
from datasets import DatasetDict

from medmerge_hf.data import ImageDataset, load_target
from medmerge_hf.errors import DataError


def test_an_image_folder_gives_its_splits_and_classes(vessels):
    target = load_target(str(vessels))
    assert isinstance(target, DatasetDict)
    assert sizes(target) == {"train": 24, "validation": 12, "test": 12}
    assert target["train"].features["label"].names == target.classes == ["clear", "dots", "patches"]
    assert (target.name, target.hub_id, target.multi_label, target.left_out) == (vessels.name, None, False, [])


def test_missing_splits_are_taken_from_training_by_class_and_seed(vessels):
    first, again, other = (
        load_target(vessels / "train", validation_fraction=0.25, test_fraction=0.25, seed=seed) for seed in (0, 0, 1)
    )
    assert sizes(first)["test"] == 6
    assert 4 <= sizes(first)["validation"] <= 5
    assert sorted(first["test"]["label"]) == [0, 0, 1, 1, 2, 2]
    pixels = [[np.asarray(image).sum() for image in t["test"]["image"]] for t in (first, again, other)]
    assert pixels[0] == pixels[1] != pixels[2]


@pytest.mark.parametrize(
    "data", ["./nowhere", "/nowhere/at/all", "nowhere.npz", "nowhere/a/b", "nobody/nothing", "nobody/v2.0", ""]
)
def test_missing_data_is_named(data, hub):
    with pytest.raises(DataError, match=r"nowhere|nobody|no path"):
        load_target(data)


@pytest.mark.parametrize(
    "option", [{"validation_fraction": 1.0}, {"test_fraction": -0.1}, {"label_fraction": 0}, {"label_fraction": 1.1}]
)
def test_a_share_out_of_range_is_refused(tmp_path, option):
    with pytest.raises(DataError, match=f"{next(iter(option))}="):
        load_target(npz(tmp_path / "a.npz"), **option)


def test_no_validation_at_all_is_refused(tmp_path):
    with pytest.raises(DataError, match="no validation split"):
        load_target(npz(tmp_path / "a.npz"), validation_fraction=0)


def test_a_file_of_a_form_that_is_not_known_is_not_called_missing(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.h5' is a file that no reader knows"):
        load_target(tmp_path / "a.h5")


def test_a_reader_that_stumbles_is_named_with_the_data(tmp_path, monkeypatch):
    from medmerge_hf.data.readers import npz as reader

    monkeypatch.setattr(reader, "arrays_of", lambda path: 1 / 0)
    with pytest.raises(DataError, match=r"a\.npz' cannot be read \(ZeroDivisionError"):
        load_target(npz(tmp_path / "a.npz"))


def test_few_labels_keep_every_class_and_the_whole_test_split(tmp_path):
    images = np.random.default_rng(2).integers(0, 255, (6, 8, 8), dtype=np.uint8)
    file = npz(tmp_path / "a.npz", train=60, test_images=images, test_labels=np.arange(6)[:, None] % 3)
    few = load_target(file, label_fraction=0.1)
    assert sorted(few["train"]["label"]) == [0, 0, 1, 1, 2, 2]
    assert sizes(few) == {"train": 6, "validation": 3, "test": 6}
    assert len(few.left_out) == 51
    other = load_target(file, label_fraction=0.1, seed=1)
    assert [np.asarray(i).sum() for i in few["train"]["image"]] != [
        np.asarray(i).sum() for i in other["train"]["image"]
    ]


def test_few_labels_keep_every_one_of_several(tmp_path):
    names = pictures(tmp_path, 40)
    labels = ["a|rare" if index in (3, 4) else "ab"[index % 2] for index in range(40)]
    file = table(tmp_path / "t.csv", image=names, label=labels)
    for seed in range(4):
        few = load_target(file, multi_label=True, label_fraction=0.1, seed=seed)
        assert np.array(few["train"]["label"]).sum(0).min() >= 1


def test_images_are_given_to_a_trainer_through_the_transform(vessels):
    rows = load_target(vessels)["test"]
    item = ImageDataset(rows, lambda image: torch.tensor(image.size))[5]
    assert item["pixel_values"].tolist() == [64, 64]
    assert item["labels"] == rows[5]["label"]
    again = pickle.loads(pickle.dumps(ImageDataset(rows, torch.nn.Identity())))
    assert len(again) == 12


def test_groups_are_handed_out(tmp_path):
    file = table(tmp_path / "t.csv", image=pictures(tmp_path, 8), label=["a", "b"] * 4, eye=[i // 2 for i in range(8)])
    target = load_target(file, group_column="eye", validation_fraction=0.5)
    assert target["train"].column_names == ["image", "label", "group"]
    assert len(set(target["train"]["group"])) == 2


def test_a_folder_can_be_the_current_one(tmp_path, monkeypatch):
    monkeypatch.chdir(class_folders(tmp_path / "scans"))
    target = load_target(".")
    assert target.name == "scans"
    monkeypatch.chdir(tmp_path)
    assert target["train"][0]["image"].size == (8, 8)


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("validation_fraction", ["0.2", None, [0.2], float("nan"), True, 1]),
        ("test_fraction", [None, -0.1]),
        ("label_fraction", ["1", None, 0, float("nan")]),
        ("seed", [None, -1, 1.5, "a"]),
        ("multi_label", ["no", None, 1]),
        ("skip_unreadable", ["no"]),
        ("drop_duplicates", [None]),
        ("label_column", [None, 1, "image"]),
        ("image_column", [["image"]]),
        ("group_column", [3]),
        ("name", ["plain"]),
        ("revision", ["main"]),
    ],
)
def test_an_option_of_another_kind_is_refused_by_name(tmp_path, option, values):
    class_folders(tmp_path)
    for value in values:
        with pytest.raises(DataError, match=option if option not in ("name", "revision") else "leave it out"):
            load_target(tmp_path, **{option: value})


@pytest.mark.parametrize("option", ["label_column", "image_column", "group_column"])
def test_a_column_of_a_form_without_columns_is_refused(tmp_path, option):
    for data in (class_folders(tmp_path / "folder"), npz(tmp_path / "a.npz")):
        with pytest.raises(DataError, match=rf"no column 'finding' \({option}\)"):
            load_target(data, **{option: "finding"})


def test_what_is_neither_file_nor_folder_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe' is neither a file nor a folder"):
        load_target(tmp_path / "pipe")
