import numpy as np
import pytest
from data_files import class_folders, noise, npz, picture, sizes
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from huggingface_hub import HfApi
from PIL import Image

from medmerge_hf.data import load_target
from medmerge_hf.data.listing import Request
from medmerge_hf.data.readers.hub import from_datasets
from medmerge_hf.errors import DataError


LABELS = Features({"image": ImageFeature(), "label": ClassLabel(names=["ill", "well"])})
TEXT = Features({"image": ImageFeature(), "label": Value("string")})


def rows(count=8, labels=(0, 1), features=LABELS):
    images = [Image.fromarray(noise(8, 8, 3)) for _ in range(count)]
    return Dataset.from_dict({"image": images, "label": [labels[i % len(labels)] for i in range(count)]}, features)


@pytest.mark.parametrize("shape", [(8, 9), (8, 9, 1), (8, 9, 3), (3, 8, 9), (1, 8, 9)])
def test_two_dimensional_images_of_an_npz_are_read(tmp_path, shape):
    images = noise(12, *shape)
    target = load_target(npz(tmp_path / "a.npz", train_images=images))
    image = target["train"][0]["image"]
    assert image.size == (9, 8)
    assert image.mode == ("RGB" if 3 in shape else "L")
    assert target.name == "a"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train_images": noise(12, 7, 8, 9)}, r"train_images is \[12, 7, 8, 9\]: three-dimensional"),
        ({"train_images": noise(12, 7, 8, 9, 1)}, "three-dimensional"),
        ({"train_images": noise(12, 4, 8, 9)}, "three-dimensional"),
        ({"train_images": np.full((12, 8, 8), 1.7e308) * (-1) ** np.arange(12)[:, None, None]}, "smaller range"),
        ({"train_images": noise(12, 7)}, r"train_images is \[12, 7\]: no images"),
        ({"train_labels": np.arange(5)[:, None]}, "train_images has 12 entries, train_labels 5"),
        ({"train_labels": np.array(3)}, "train_labels 0"),
        ({"train_labels": np.eye(12)}, "multi_label=True"),
        ({"train_labels": np.arange(12)[:, None] % 3 + 5}, "run from 0 without a gap"),
        ({"train_labels": np.array(["a", None] * 6)}, r"not a readable \.npz"),
        ({"train_images": np.array(["a"] * 12).reshape(12, 1, 1)}, "an array of <U1 is no image"),
        ({"val_labels": np.arange(3)}, "val_labels, but no images"),
        ({"extra_images": noise(3, 8, 8), "extra_labels": np.arange(3)}, "3 images of split 'extra'"),
    ],
)
def test_other_arrays_are_refused_by_name(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        load_target(npz(tmp_path / "a.npz", **arrays))


def test_several_labels_of_an_npz(tmp_path):
    labels = (np.random.default_rng(0).random((40, 14)) < 0.4).astype(np.uint8)
    file = npz(tmp_path / "a.npz", 40, labels, val_images=noise(9, 8, 8), val_labels=labels[:9], ids=np.arange(3))
    target = load_target(file, multi_label=True)
    assert target.multi_label
    assert target.classes == [str(index) for index in range(14)]
    assert (np.array(target["train"]["label"]) == labels).all()
    assert target.left_out == [("ids", "neither images nor labels")]


def test_an_npz_of_one_split_needs_no_name_for_it(tmp_path):
    np.savez(tmp_path / "a.npz", images=noise(12, 8, 8), labels=np.arange(12) % 2)
    assert sum(sizes(load_target(tmp_path / "a.npz")).values()) == 12


@pytest.mark.parametrize("content", [b"404", b"PK\x03\x04"])
def test_a_file_that_is_no_npz_is_refused(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"not a readable \.npz"):
        load_target(tmp_path / "a.npz")


def test_a_folder_of_save_to_disk_is_read(tmp_path):
    DatasetDict({"train": rows(), "valid": rows(4)}).save_to_disk(str(tmp_path / "saved [1]"))
    target = load_target(tmp_path / "saved [1]")
    assert sizes(target) == {"train": 8, "validation": 4}
    assert target.classes == ["ill", "well"]
    rows(10).save_to_disk(str(tmp_path / "one"))
    assert sizes(load_target(tmp_path / "one")) == {"train": 8, "validation": 2}


def test_a_saved_split_that_is_not_named_is_refused(tmp_path):
    DatasetDict({"train": rows(), "valid": rows(4)}).save_to_disk(str(tmp_path))
    rows(4).save_to_disk(str(tmp_path / "test"))
    with pytest.raises(DataError, match=r"would be left out, the first is test/data-.*of no split"):
        load_target(tmp_path)
    (tmp_path / "state.json").unlink(missing_ok=True)
    (tmp_path / "dataset_dict.json").write_text("{")
    with pytest.raises(DataError, match="cannot be loaded"):
        load_target(tmp_path)


def test_a_column_may_say_the_splits_of_a_single_data_set(tmp_path):
    both = rows(12).add_column("split", ["train"] * 8 + ["val"] * 4)
    both.save_to_disk(str(tmp_path))
    assert sizes(load_target(tmp_path)) == {"train": 8, "validation": 4}


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": rows(), "extra": rows(4)}, "4 images of split 'extra'"),
        ({"train": rows(), "test": rows(4, (-1,))}, r"test row 1 has labels \['-1'\] outside 0\.\.1"),
        ({"train": rows(), "test": rows(4, ("a", "b"), TEXT)}, "has the classes"),
        ({"validation": rows()}, "no training split"),
    ],
)
def test_splits_that_cannot_be_used_are_refused(tmp_path, splits, message):
    DatasetDict(splits).save_to_disk(str(tmp_path))
    with pytest.raises(DataError, match=message):
        load_target(tmp_path)


def test_an_empty_split_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"'eyes' \(test\) is an empty split"):
        from_datasets({"train": rows(), "test": rows(0)}, Request("eyes", tmp_path))


def test_a_data_set_on_the_hub_is_read(hub):
    DatasetDict({"train": rows(8), "test": rows(6)}).push_to_hub("tester/eyes")
    target = load_target("tester/eyes", validation_fraction=0.25)
    assert sizes(target) == {"train": 6, "validation": 2, "test": 6}
    assert (target.hub_id, target.revision) == ("tester/eyes", hub.repos["datasets", "tester/eyes"].refs["main"])
    with pytest.raises(DataError, match="set label_column"):
        load_target("tester/eyes", label_column="finding")


def test_files_on_the_hub_that_are_in_no_split_are_told(hub, caplog):
    rows(8).push_to_hub("tester/parts")
    rows(4).push_to_hub("tester/parts", "extra", split="more")
    with caplog.at_level("INFO"):
        target = load_target("tester/parts")
    assert sum(sizes(target).values()) == 8
    assert {what.split("/")[0] for what, _ in target.left_out if what[0] != "."} == {"README.md", "extra"}
    assert "of no split that datasets reads for configuration 'default'" in caplog.text


def test_images_on_the_hub_are_read_as_a_folder_of_images_is(hub, tmp_path):
    class_folders(tmp_path / "eyes", 6)
    picture(tmp_path / "eyes" / "ill" / "train_1.png")
    HfApi().create_repo("tester/folder", repo_type="dataset")
    HfApi().upload_folder(folder_path=tmp_path / "eyes", repo_id="tester/folder", repo_type="dataset")
    target = load_target("tester/folder")
    assert sum(sizes(target).values()) == 13
    assert target.classes == ["ill", "well"]
    assert target.hub_id == "tester/folder"


def test_an_image_that_a_saved_table_only_names_is_found(tmp_path):
    names = [str(picture(tmp_path / "images" / f"{index}.png")) for index in range(8)]
    Dataset.from_dict({"image": names, "label": ["a", "b"] * 4}).save_to_disk(str(tmp_path / "saved"))
    assert sum(sizes(load_target(tmp_path / "saved")).values()) == 8
