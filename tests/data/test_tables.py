import gzip
import os

import numpy as np
import pandas as pd
import pytest
from data_files import class_folders, picture, pictures, sizes, table
from datasets import ClassLabel, Dataset, Features, List
from datasets import Image as ImageFeature
from PIL import Image

from medmerge_hf.data import load_target
from medmerge_hf.errors import DataError


FORMS = ["t.csv", "t.tsv", "t.csv.gz", "t.tsv.gz", "t.jsonl", "t.parquet", "t.xlsx"]


@pytest.fixture
def listed(tmp_path):
    """24 images of 12 patients, and a function that writes a table of them."""
    columns = {
        "path": pictures(tmp_path, 24),
        "finding": ["ill" if index // 2 % 2 else "well" for index in range(24)],
        "patient": [index // 2 for index in range(24)],
    }
    return lambda name="t.csv", **more: table(tmp_path / name, **{**columns, **more})


def load(file, **kwargs):
    columns = {"image_column": "path", "label_column": "finding"}
    return load_target(file, **{"validation_fraction": 0.25, **columns, **kwargs})


@pytest.mark.parametrize("name", FORMS)
def test_a_table_of_paths_is_a_target(listed, name):
    if name.endswith("xlsx"):
        pytest.importorskip("openpyxl", reason="needs openpyxl: pip install 'medmerge_hf[tables]'")
    target = load(listed(name, split=["Train"] * 12 + ["dev"] * 6 + ["Hold-out"] * 6), group_column="patient")
    assert target.classes == ["ill", "well"]
    assert sizes(target) == {"train": 12, "validation": 6, "test": 6}
    assert set(target["test"]["group"]) == {"9", "10", "11"}
    assert target["train"][0]["image"].size == (8, 8)


@pytest.mark.parametrize("name", FORMS[:-1])
def test_a_row_that_names_no_image_is_named(listed, name):
    names = [f"{index}.png" for index in range(24)]
    for wrong, message in (("nowhere.png", r"nowhere\.png"), (None, "cell of the image is empty"), (".", "no file")):
        file = listed(name, path=[*names[:5], wrong, *names[6:]])
        with pytest.raises(DataError, match=rf"1 images .*{name} (row [67]|line 6).*{message}"):
            load(file)
        assert len(load(file, skip_unreadable=True).left_out) == 1


@pytest.mark.parametrize("seed", range(3))
def test_a_patient_stays_on_one_side(listed, seed):
    target = load(listed(), group_column="patient", test_fraction=0.25, seed=seed)
    groups = {split: set(rows["group"]) for split, rows in target.items()}
    assert not groups["train"] & (groups["validation"] | groups["test"])
    assert sum(sizes(target).values()) == 24


def test_paths_may_be_absolute_or_begin_at_home(listed, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    names = [f"~/{index}.png" if index % 2 else str(tmp_path / f"{index}.png") for index in range(24)]
    file = listed("elsewhere.csv", path=names)
    (tmp_path / "deep").mkdir()
    os.rename(file, tmp_path / "deep" / "t.csv")
    assert sum(sizes(load("~/deep/t.csv")).values()) == 24


def test_columns_that_are_not_there_are_named(listed):
    with pytest.raises(DataError, match=r"no column 'image', only \['path', 'finding', 'patient'\]: set image_column"):
        load_target(listed())
    with pytest.raises(DataError, match="set group_column"):
        load(listed(), group_column="case")


def test_columns_that_are_not_used_may_hold_anything(listed):
    mixed = [45 if index % 3 else "60+" for index in range(24)]
    assert sum(sizes(load(listed("t.jsonl", age=mixed))).values()) == 24
    assert sum(sizes(load(listed("t.parquet", age=pd.array([50, None] * 12, dtype="Int64")))).values()) == 24


def test_text_is_read_as_it_stands(tmp_path):
    names = pictures(tmp_path, 12)
    file = table(tmp_path / "t.csv", image=names, label=["NA", "None", "nan", "null"] * 3)
    assert load_target(file).classes == ["NA", "None", "nan", "null"]
    file = table(tmp_path / "t.csv", image=names, label=[0.0, 1.0] * 6)
    assert load_target(file).classes == ["0", "1"]


def test_european_spreadsheets_and_byte_order_marks_are_read(tmp_path):
    rows = [f"{name};{'ab'[index % 2]};1,5" for index, name in enumerate(pictures(tmp_path, 10))]
    (tmp_path / "t.csv").write_text("\n".join(["image;label;size", *rows, ";;", ""]), encoding="utf-8-sig")
    assert sum(sizes(load_target(tmp_path / "t.csv")).values()) == 10


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"image,label\na.png,b,c\n", "row 2 has 3 cells, the header 2"),
        ("t.csv", b"image,label\n\xff\xfe,a\n", "UTF-8"),
        ("t.csv", b"", "no row at all"),
        ("t.csv", b"image|label\na.png|b\n", "one column, 'image.label': .* separated by commas"),
        ("t.csv", b'image,label,note\na.png,a,"5 mm\nb.png,b,\n', r"row \d cannot be read .*close its quotes"),
        ("t.jsonl", b'{"image": [[1, 2], [3]], "label": 1}\n', "t.jsonl line 1 .*its image is no path and no array"),
        ("t.jsonl", b'{"image": "\\ud800.png", "label": 1}\n', "no UTF-8: rename it"),
        ("t.csv", b"image,label\n", "has no row"),
        ("t.csv", b"image,label,label\na,b,c\n", "2 columns 'label'"),
        ("t.csv.gz", b"404", "cannot be read as a table"),
        ("t.jsonl", b'{"image": "a", "label": 1}\n{"image"\n', "line 2 is no JSON"),
        ("t.jsonl", b"[1]\n", "line 1 is a list"),
        ("t.parquet", b"404", "cannot be read as a table"),
        ("t.xlsx", b"PK", r"\.xlsx"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_target(tmp_path / name)


def test_a_truncated_archive_is_refused(listed, tmp_path):
    whole = gzip.compress(b"path,finding\n" + b"0.png,a\n" * 999)
    (tmp_path / "t.csv.gz").write_bytes(whole[:-12])
    with pytest.raises(DataError, match="cannot be read as a table"):
        load(tmp_path / "t.csv.gz")


def test_empty_cells_of_a_split_are_refused_with_their_count(listed):
    with pytest.raises(DataError, match=r"6 images with an empty split \(the first is t\.csv row 20"):
        load(listed(split=["train"] * 12 + ["val"] * 6 + [None] * 6))


def test_a_column_of_another_name_may_say_the_splits(listed):
    target = load(listed(Subset=["training"] * 18 + ["testing"] * 6))
    assert len(target["test"]) == 6
    assert "test" not in load(listed(Subset=["A"] * 18 + ["B"] * 6))


def test_the_sheet_with_images_is_read_and_others_are_reported(tmp_path):
    pytest.importorskip("openpyxl", reason="needs openpyxl: pip install 'medmerge_hf[tables]'")
    rows = pd.DataFrame({"image": pictures(tmp_path, 12), "label": [0, 1, "2"] * 4})
    with pd.ExcelWriter(tmp_path / "t.xlsx") as book:
        pd.DataFrame({"note": ["x"]}).to_excel(book, sheet_name="notes")
        rows.to_excel(book, sheet_name="images")
    target = load_target(tmp_path / "t.xlsx")
    assert target.classes == ["0", "1", "2"]
    assert target.left_out == [("t.xlsx sheet notes", "sheet without images")]
    with pd.ExcelWriter(tmp_path / "t.xlsx") as book:
        rows.to_excel(book, sheet_name="one")
        rows.to_excel(book, sheet_name="two")
    with pytest.raises(DataError, match="2 sheets with 'image'"):
        load_target(tmp_path / "t.xlsx")


def test_parquet_keeps_the_names_that_stand_in_it(tmp_path):
    images = [Image.new("L", (4, 4), index) for index in range(12)]
    one = Features({"image": ImageFeature(), "label": ClassLabel(names=["b", "a"])})
    Dataset.from_dict({"image": images, "label": [0, 1] * 6}, one).to_parquet(tmp_path / "one.parquet")
    assert load_target(tmp_path / "one.parquet").classes == ["b", "a"]
    many = Features({"image": ImageFeature(), "label": List(ClassLabel(names=["b", "a", "c"]))})
    Dataset.from_dict({"image": images, "label": [[0], [1, 2]] * 6}, many).to_parquet(tmp_path / "many.parquet")
    assert load_target(tmp_path / "many.parquet", multi_label=True).classes == ["b", "a", "c"]
    grades = pd.Categorical(["mild", "severe"] * 6, categories=["none", "severe", "mild"], ordered=True)
    pd.DataFrame({"image": pictures(tmp_path, 12), "label": grades}).to_parquet(tmp_path / "grades.parquet")
    assert load_target(tmp_path / "grades.parquet").classes == ["severe", "mild"]


# Folders of tables


def test_a_folder_with_a_table_a_split(tmp_path):
    for split, count in (("train", 8), ("val", 4), ("Test", 2)):
        names = [f"images/{split}/{name}" for name in pictures(tmp_path / "images" / split, count)]
        table(tmp_path / f"{split}_labels.csv", image=names, label=["a", "b"] * (count // 2))
    (tmp_path / "README.md").write_text("")
    target = load_target(tmp_path)
    assert sizes(target) == {"train": 8, "validation": 4, "test": 2}
    assert target.left_out == [("README.md", "lists no images")]


def test_shards_of_parquet_with_other_columns(tmp_path):
    rows = {"scan": [Image.new("L", (4, 4), i) for i in range(12)], "finding": ["ill", "well"] * 6}
    (tmp_path / "data").mkdir()
    for shard in range(2):
        half = {name: values[shard::2] if name == "scan" else values[:6] for name, values in rows.items()}
        Dataset.from_dict(half).to_parquet(tmp_path / "data" / f"train-{shard:05}-of-00002.parquet")
    target = load_target(tmp_path, image_column="scan", label_column="finding", validation_fraction=0.5)
    assert target.classes == ["ill", "well"]
    assert sum(sizes(target).values()) == 12
    with pytest.raises(DataError, match=r"no column 'image', only \['scan', 'finding'\]"):
        load_target(tmp_path)


def test_metadata_beside_images_labels_them(tmp_path):
    names = pictures(tmp_path, 8)
    table(tmp_path / "metadata.csv", file_name=names, label=["a", "b"] * 4)
    assert sum(sizes(load_target(tmp_path)).values()) == 8


def test_images_that_no_table_lists_are_refused(tmp_path):
    names = [f"images/{name}" for name in pictures(tmp_path / "images", 8)]
    table(tmp_path / "t.csv", image=names, label=["a", "b"] * 4)
    picture(tmp_path / "images" / "more.png")
    with pytest.raises(DataError, match=r"1 files would be left out, .* images/more\.png: listed in no table"):
        load_target(tmp_path)
    assert load_target(tmp_path, skip_unreadable=True).left_out == [("images/more.png", "listed in no table")]
    picture(tmp_path / "others" / "more.png")
    with pytest.raises(DataError, match=r"No table of .* lists a file of the folder 'others'"):
        load_target(tmp_path, skip_unreadable=True)


def test_a_table_without_a_split_beside_tables_with_one_is_refused(tmp_path):
    for name in ("train.csv", "more.csv"):
        table(tmp_path / name, image=pictures(tmp_path, 8), label=["a", "b"] * 4)
    with pytest.raises(DataError, match=r"more\.csv row 2.* is of no split, while others name one"):
        load_target(tmp_path)


def test_class_folders_with_a_table_that_lists_no_labels_are_class_folders(tmp_path):
    class_folders(tmp_path)
    table(tmp_path / "metadata.csv", file_name=["ill/0.png"], age=[50])
    assert load_target(tmp_path).left_out == [("metadata.csv", "no image")]


def test_images_lie_in_a_table_as_arrays(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 4, 4)).tolist()
    table(tmp_path / "t.jsonl", image=pixels, label=["a", "b"] * 4)
    target = load_target(tmp_path / "t.jsonl")
    assert np.asarray(target["train"][0]["image"]).tolist() in pixels


def test_a_cell_may_be_longer_than_csv_allows(tmp_path):
    masks = ["1 3 " * 40_000, *["1 2"] * 7]
    file = table(tmp_path / "t.csv", image=pictures(tmp_path, 8), label=["a", "b"] * 4, mask=masks)
    assert sum(sizes(load_target(file)).values()) == 8


@pytest.mark.parametrize("column", ["Dataset", "train test", "data-split", "mode"])
def test_a_column_that_says_training_is_the_column_of_splits(tmp_path, column):
    columns = {"image": pictures(tmp_path, 8), "label": ["a", "b"] * 4, "set": ["A", "B"] * 4}
    split = ["Training"] * 6 + ["dev"] * 2
    assert sizes(load_target(table(tmp_path / "t.csv", **columns, **{column: split}))) == {"train": 6, "validation": 2}
    with pytest.raises(DataError, match="2 images of split 'odd'"):
        load_target(table(tmp_path / "t.csv", **columns, **{column: split[:6] + ["odd"] * 2}))


@pytest.mark.parametrize("form", ["disk", "parquet"])
def test_a_column_of_splits_may_be_a_class_label(tmp_path, form):
    import datasets

    features = {"image": datasets.Value("string"), "label": datasets.Value("int64")}
    features["split"] = datasets.ClassLabel(names=["train", "val"])
    names = [str(tmp_path / name) for name in pictures(tmp_path, 8)]
    columns = {"image": names, "label": [0, 1] * 4, "split": [0] * 6 + [1] * 2}
    rows = datasets.Dataset.from_dict(columns, datasets.Features(features))
    place = tmp_path / "table" / "t.parquet"
    place.parent.mkdir()
    rows.to_parquet(place) if form == "parquet" else rows.save_to_disk(str(place))
    assert sizes(load_target(place)) == {"train": 6, "validation": 2}
