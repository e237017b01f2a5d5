import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features
from datasets import Image as ImageFeature
from PIL import Image

from medmerge_hf.data import ImageDataset, load_target
from medmerge_hf.errors import DataError


def save_npz(file, train=12, labels=None, **extra):
    random = np.random.default_rng(0)
    labels = np.arange(train)[:, None] % 3 if labels is None else labels
    arrays = {"train_images": random.integers(0, 255, (train, 8, 8), dtype=np.uint8), "train_labels": labels}
    np.savez(file, **arrays, **extra)
    return str(file)


def test_an_imagefolder_gives_its_splits_and_classes(vessels):
    target = load_target(str(vessels))
    assert {split: len(rows) for split, rows in target.items()} == {"train": 24, "validation": 12, "test": 12}
    assert target["train"].features["label"].names == ["clear", "dots", "patches"]


def test_missing_splits_are_taken_from_training_by_class_and_seed(vessels):
    first, again, other = (
        load_target(str(vessels / "train"), validation_fraction=0.25, test_fraction=0.25, seed=seed)
        for seed in (0, 0, 1)
    )
    assert {split: len(rows) for split, rows in first.items()} == {"train": 13, "test": 6, "validation": 5}
    pixels = [np.asarray(t["test"][0]["image"]).sum() for t in (first, again, other)]
    assert pixels[0] == pixels[1] != pixels[2]


def test_a_medmnist_file_is_read(tmp_path):
    images = np.zeros((3, 8, 8), dtype=np.uint8)
    file = save_npz(tmp_path / "a.npz", val_images=images, val_labels=np.array([[0], [1], [2]]))
    target = load_target(file)
    assert {split: len(rows) for split, rows in target.items()} == {"train": 12, "validation": 3}
    assert target["train"][1]["label"] == 1
    assert target["train"][0]["image"].size == (8, 8)


def test_a_folder_of_parquet_with_other_columns_is_read(tmp_path):
    rows = {"scan": [Image.new("L", (4, 4), i) for i in range(12)], "finding": ["ill", "well"] * 6}
    (tmp_path / "data").mkdir()
    Dataset.from_dict(rows).to_parquet(tmp_path / "data" / "train-0.parquet")
    target = load_target(str(tmp_path / "data"), image_column="scan", label_column="finding", validation_fraction=0.5)
    assert target["train"].features["label"].names == ["ill", "well"]
    with pytest.raises(DataError, match=r"no column 'image', only \['scan', 'finding'\]"):
        load_target(str(tmp_path / "data"))


@pytest.mark.parametrize("data", ["./nowhere", "/nowhere/at/all", "nowhere.npz", "nobody/nothing"])
def test_missing_data_is_named(data):
    with pytest.raises(DataError, match=r"nowhere|nobody"):
        load_target(data)


def test_a_broken_image_is_named_and_can_be_skipped(vessels, tmp_path):
    import shutil

    shutil.copytree(vessels, tmp_path / "data")
    broken = tmp_path / "data" / "train" / "dots" / "0003.png"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(DataError, match=r"1 images of split 'train'.*0003\.png"):
        load_target(str(tmp_path / "data"))
    assert len(load_target(str(tmp_path / "data"), skip_unreadable=True)["train"]) == 23


def test_a_class_that_a_split_lacks_is_named(vessels, tmp_path):
    import shutil

    shutil.copytree(vessels, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "validation" / "patches")
    with pytest.raises(DataError, match="'validation' has no image of class patches"):
        load_target(str(tmp_path / "data"))


def test_images_without_labels_are_refused(vessels):
    with pytest.raises(DataError, match=r"no column 'label'|nothing to classify"):
        load_target(str(vessels / "train" / "dots"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((12, 1), dtype=np.int64), "nothing to classify"),
        (np.arange(12)[:, None] % 3 + 5, "run from 0 without a gap"),
        (np.arange(12)[:, None] % 3 - 1, "run from 0 without a gap"),
        (np.arange(5)[:, None], "train_labels 5"),
    ],
)
def test_wrong_labels_are_refused(tmp_path, labels, message):
    with pytest.raises(DataError, match=message):
        load_target(save_npz(tmp_path / "a.npz", labels=labels))


def test_unlabelled_images_of_a_data_set_are_refused(tmp_path):
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["ill", "well"])})
    rows = {"image": [Image.new("L", (4, 4), i) for i in range(12)], "label": [0, 1, -1] * 4}
    (tmp_path / "data").mkdir()
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "data" / "train-0.parquet")
    with pytest.raises(DataError, match=r"labels \['-1'\] outside 0\.\.1"):
        load_target(str(tmp_path / "data"), validation_fraction=0.25)


def test_no_validation_at_all_is_refused(tmp_path):
    with pytest.raises(DataError, match="no validation split"):
        load_target(save_npz(tmp_path / "a.npz"), validation_fraction=0)


def test_a_file_that_is_no_npz_is_refused(tmp_path):
    (tmp_path / "a.npz").write_text("404")
    with pytest.raises(DataError, match=r"not a readable \.npz"):
        load_target(str(tmp_path / "a.npz"))


def test_pixels_apply_the_transform_to_each_image(vessels):
    rows = load_target(str(vessels))
    assert isinstance(rows, DatasetDict)
    item = ImageDataset(rows["test"], lambda image: torch.tensor(image.size))[5]
    assert item["pixel_values"].tolist() == [64, 64]
    assert item["labels"] == rows["test"][5]["label"]
