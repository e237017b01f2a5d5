import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medmerge_hf.data import load_target
from medmerge_hf.errors import DataError


@pytest.fixture
def listed(tmp_path):
    """24 images of 12 patients, two each, and a function that writes a table of them."""
    random = np.random.default_rng(0)
    for index in range(24):
        Image.fromarray(random.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(tmp_path / f"{index}.png")
    columns = {
        "path": [f"{index}.png" for index in range(24)],
        "finding": ["ill" if index // 2 % 2 else "well" for index in range(24)],
        "patient": [index // 2 for index in range(24)],
    }

    def write(name="list.csv", **more):
        table = pd.DataFrame({**columns, **more})
        suffix = name.rsplit(".", 1)[1]
        if suffix == "jsonl":
            (tmp_path / name).write_text("\n".join(json.dumps(row) for row in table.to_dict("records")))
        elif suffix == "parquet":
            table.to_parquet(tmp_path / name)
        else:
            table.to_csv(tmp_path / name, index=False)
        return str(tmp_path / name)

    return write


def load(file, **kwargs):
    columns = {"image_column": "path", "label_column": "finding"}
    return load_target(file, **{"validation_fraction": 0.25, **columns, **kwargs})


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl", "list.parquet"])
def test_a_table_of_paths_is_a_target(listed, name):
    target = load(listed(name))
    assert target.classes == ["ill", "well"]
    assert len(target["train"]) + len(target["validation"]) == 24
    assert target["train"][0]["image"].size == (8, 8)


def test_a_column_says_which_split_an_image_belongs_to(listed):
    target = load(listed(split=["train"] * 12 + ["val"] * 6 + ["test"] * 6))
    assert {split: len(rows) for split, rows in target.items()} == {"train": 12, "validation": 6, "test": 6}


@pytest.mark.parametrize("seed", range(3))
def test_a_patient_stays_on_one_side(listed, seed):
    target = load(listed(), group_column="patient", test_fraction=0.25, seed=seed)
    groups = {split: set(rows["group"]) for split, rows in target.items()}
    assert not groups["train"] & groups["validation"]
    assert not groups["train"] & groups["test"]
    assert sum(len(rows) for rows in target.values()) == 24


def test_a_patient_on_two_sides_is_refused(listed):
    file = listed(split=["train"] * 13 + ["val"] * 11)
    with pytest.raises(DataError, match=r"Group 6 is in the splits 'train' and 'validation'"):
        load(file, group_column="patient")


def test_images_with_several_labels(listed, tmp_path):
    file = listed(found=["a|b", "b", "", "a"] * 6)
    target = load(file, label_column="found", multi_label=True)
    assert target.classes == ["a", "b"]
    counts = np.array(target["train"]["label"]).sum(0) + np.array(target["validation"]["label"]).sum(0)
    assert counts.tolist() == [12, 12]
    assert len(load(file, label_column="found", multi_label=True, label_fraction=0.5)["train"]) == 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": ["nowhere.png"] * 24}, r"nowhere\.png of the table is not there"),
        ({"finding": [None] * 24}, "without a label"),
    ],
)
def test_tables_with_holes_are_refused(listed, change, message):
    with pytest.raises(DataError, match=message):
        load(listed("list.parquet", **change))


def test_columns_that_are_not_there_are_named(listed):
    with pytest.raises(DataError, match=r"no column 'image'"):
        load_target(listed())
    with pytest.raises(DataError, match="set group_column"):
        load(listed(), group_column="case")


def test_a_file_that_is_no_table_is_refused(tmp_path):
    (tmp_path / "a.parquet").write_text("404")
    with pytest.raises(DataError, match="cannot be read as a table"):
        load_target(str(tmp_path / "a.parquet"))
