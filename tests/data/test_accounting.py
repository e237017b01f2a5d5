"""Whatever lies there is used, or reported, or the call is refused: never more, never less, no other error."""

import logging
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from data_files import noise, picture, table
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from medmerge_hf.data import load_target
from medmerge_hf.errors import DataError


SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
OPTIONS = st.fixed_dictionaries(
    {
        "skip_unreadable": st.sampled_from([True, True, False]),
        "drop_duplicates": st.booleans(),
        "validation_fraction": st.sampled_from([0.2, 0.5]),
        "test_fraction": st.sampled_from([0.0, 0.3]),
        "label_fraction": st.sampled_from([1.0, 0.5]),
        "unlabelled": st.booleans(),
    }
)
KINDS = st.sampled_from(["ok", "ok", "ok", "ok", "broken", "hidden", "text", "same"])
PLACES = ["a", "b", "train/a", "train/b", "Val/a", "val/b", "test/a", "test/b", ".hidden", "c/train", "unlabelled/c"]


def trees(places: list[str], least: int):
    """Files of any kind in some folders."""
    return st.lists(st.tuples(st.sampled_from(places), KINDS), min_size=least, max_size=30)


TREES = st.one_of(
    trees(PLACES, 1),
    trees(["a", "b"], 6),
    trees(["train/a", "train/b", "Val/a", "Val/b", "Test_set/a"], 10),
    trees(["train/a", "train/b", "Val/b", "test/a", "unlabelled", "unsup/a", "train", "test", "val/unlabeled"], 10),
)
SAME = noise(8, 8)


def grow(root: Path, tree) -> tuple[dict[bytes, list[str]], set[str]]:
    """Write a tree; pixels -> files that hold them, and all files."""
    pixels: dict[bytes, list[str]] = {}
    for index, (place, kind) in enumerate(tree):
        name = {"hidden": f".{index}.png", "text": f"{index}.txt"}.get(kind, f"train_{index}.png")
        file = root / place / name
        image = SAME if kind == "same" else noise(8, 8)
        picture(file.with_suffix(".png"), image).rename(file)
        if kind == "broken":
            file.write_bytes(b"404")
        pixels.setdefault(image.tobytes(), []).append(f"{place}/{name}")
    return pixels, {file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()}


@SETTINGS
@given(tree=TREES, options=OPTIONS)
def test_every_file_of_a_folder_is_used_or_reported_or_all_is_refused(tree, options):
    with tempfile.TemporaryDirectory() as folder:
        pixels, present = grow(Path(folder), tree)
        try:
            target = load_target(folder, **options)
        except DataError:
            return
        parts = [*target.values(), target.unlabelled or []]
        seen = [np.asarray(row["image"]).tobytes() for rows in parts for row in rows]
        check_splits(target)
    reported = [what for what, _ in target.left_out]
    assert len(seen) + len(reported) == len(present)
    assert set(reported) <= present
    assert Counter(image for image, files in pixels.items() for file in files if file not in reported) == Counter(seen)
    if not options["skip_unreadable"]:
        assert all(kind != "broken" for place, kind in tree if not place.startswith("."))


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["ok", "ok", "ok", "ok", "ok", "ok", "missing", "broken", "empty", "same"]),
        st.sampled_from(["ill", "ill", "well", "well", "NA", "ill|well", None]),
        st.sampled_from(["train", "train", "Training", "val", "Dev", "test", "no label", "nowhere", None]),
        st.sampled_from(["p", "q", "r", "s", None]),
    ),
    min_size=2,
    max_size=30,
)
TIDY = st.lists(
    st.tuples(
        st.sampled_from(["ok", "ok", "ok", "ok", "ok", "missing", "broken", "same"]),
        st.sampled_from(["ill", "well", "ill", "well", None]),
        st.sampled_from(["train", "Training", "val", "test", "unlabelled"]),
        st.sampled_from("pqrstuvw"),
    ),
    min_size=8,
    max_size=30,
)


@SETTINGS
@given(
    rows=st.one_of(ROWS, TIDY),
    options=OPTIONS,
    splits=st.booleans(),
    groups=st.booleans(),
    several=st.booleans(),
    form=st.sampled_from(["t.csv", "t.tsv", "t.jsonl", "t.parquet", "t.csv.gz"]),
)
@example(
    rows=[("ok", "ill", "train", "p"), ("ok", "ill", "train", "p"), ("empty", None, "train", None)],
    options={"skip_unreadable": True, "validation_fraction": 0.2, "unlabelled": True},
    splits=False,
    groups=False,
    several=True,
    form="t.csv",
)
def test_every_row_of_a_table_is_used_or_reported_or_all_is_refused(rows, options, splits, groups, several, form):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        names = [None if kind == "empty" else f"{index}.png" for index, (kind, *_) in enumerate(rows)]
        for index, (kind, *_) in enumerate(rows):
            if kind in ("ok", "same"):
                picture(root / f"{index}.png", SAME if kind == "same" else noise(8, 8))
            if kind == "broken":
                (root / f"{index}.png").write_bytes(b"404")
        columns = dict(zip(("label", "split", "patient"), zip(*(row[1:] for row in rows), strict=True), strict=True))
        if not splits:
            columns.pop("split")
        file = table(root / form, image=names, **{name: list(values) for name, values in columns.items()})
        try:
            target = load_target(file, multi_label=several, group_column="patient" if groups else None, **options)
        except DataError:
            return
        check_splits(target)
    used = sum(len(split) for split in [*target.values(), target.unlabelled or []])
    cells = zip(names, *columns.values(), strict=True)
    blank = sum(set(row) == {None} for row in cells) if "json" not in form and "parquet" not in form else 0
    assert used + len(target.left_out) == len(rows) - blank  # spreadsheets end in lines of separators alone
    assert len({what for what, _ in target.left_out}) == len(target.left_out)
    broken = sum(kind not in ("ok", "same") for kind, *_ in rows)
    assert used <= len(rows) - broken
    if not options["skip_unreadable"]:
        assert not broken


SHARED = [noise(8, 8) for _ in range(16)]
CELLS = st.tuples(st.integers(0, 15), st.sampled_from("pqrstuvw"))


@SETTINGS
@given(
    rows=st.lists(st.tuples(CELLS, st.sampled_from(["ill", "well"])), min_size=6, max_size=20),
    pool=st.lists(st.tuples(CELLS, st.booleans()), min_size=1, max_size=20),
    options=OPTIONS,
    groups=st.booleans(),
)
def test_other_data_adds_no_image_and_no_group_of_a_split(rows, pool, options, groups):
    with tempfile.TemporaryDirectory() as folder:
        root, cells = Path(folder), [cell for cell, _ in [*rows, *pool]]
        names = [picture(root / f"{index}.png", SHARED[image]).name for index, (image, _) in enumerate(cells)]
        patients = [patient for _, patient in cells[: len(rows)]]
        unknown = [None if lost else patient for (_, patient), lost in pool]
        columns = {"label": [label for _, label in rows], "patient": patients}
        file = table(root / "t.csv", image=names[: len(rows)], **columns)
        more = table(root / "more.csv", image=names[len(rows) :], patient=unknown)
        try:
            target = load_target(file, **{**options, "unlabelled": more}, group_column="patient" if groups else None)
        except DataError:
            return
        check_splits(target)
        pixels = [row["image"].tobytes() for row in target.unlabelled]
    assert sum(map(len, target.values())) + len(pixels) + len(target.left_out) == len(cells)
    if groups:
        held = {group for split in ("validation", "test") if split in target for group in target[split]["group"]}
        known = {(SHARED[image].tobytes(), patient) for image, patient in cells}
        assert all(any((image, patient) in known for patient in set("pqrstuvw") - held) for image in pixels)


def check_splits(target):
    """What is true of every target: no group is torn, each class is in training, pixels have 8 bits."""
    labels = np.array(target["train"]["label"])
    counts = labels.sum(0) if target.multi_label else np.bincount(labels, minlength=len(target.classes))
    assert (counts > 0).all()
    groups = [set(rows["group"]) for rows in target.values() if "group" in rows.column_names]
    assert sum(map(len, groups)) == len(set().union(*groups))
    assert {row["image"].mode for rows in target.values() for row in rows} <= {target.pixel_rule["mode"]}
    if target.unlabelled is None:
        return
    held = {row["image"].tobytes() for rows in target.values() for row in rows}
    pool = [row["image"].tobytes() for row in target.unlabelled]
    assert len(set(pool)) == len(pool) > 0
    assert not held & set(pool)


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("medmerge_hf.data").setLevel(logging.ERROR)
    yield
    logging.getLogger("medmerge_hf.data").setLevel(logging.NOTSET)


CONTENTS = [b"", b"404", b"PK\x03\x04", b"\x93NUMPY", b"PAR1", b"{", b"\xff\xfe\x00", b"image,label\n,"]


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".jsonl", ".parquet", ".xlsx", ".npz", ".png", ".bin", ""])
def test_no_file_raises_anything_but_a_data_error(tmp_path, suffix, content):
    file = tmp_path / f"file{suffix}"
    file.write_bytes(content)
    for data in (file, tmp_path):
        with pytest.raises(DataError):
            load_target(data)


def test_a_picture_is_no_target(tmp_path):
    Image.fromarray(noise(8, 8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="no reader knows"):
        load_target(tmp_path / "a.png")
