"""Which forms of data are accepted, and which are refused with which message: runs every case and prints the table.

    python benchmarks/data_forms.py

The table stands in docs/data.md. Everything is made on the fly, nothing is downloaded.
"""

import io
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import datasets
import numpy as np
import pandas as pd
from PIL import Image
from pydicom.data import get_testdata_file

from medmerge_hf.data import Target, load_target
from medmerge_hf.errors import DataError


HEAD = "| form | case | what becomes of it |\n|---|---|---|"
RANDOM = np.random.default_rng(0)
COUNT = 12


class Case(NamedTuple):
    """A form of data, a case of it, how it is written (the path is returned) and loaded."""

    form: str
    what: str
    write: Callable[[Path], Path]
    options: Mapping[str, Any] = MappingProxyType({})


def noise(*shape: int) -> np.ndarray:
    """Pixels of 8 bits."""
    return RANDOM.integers(0, 256, shape or (8, 8), dtype=np.uint8)


def picture(file: Path, pixels: np.ndarray | None = None) -> str:
    """Write an image; its name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(8, 8, 3) if pixels is None else pixels).save(file)
    return file.name


def tree(*files: str, count: int = 1) -> Callable[[Path], Path]:
    """Images at these places, so many each."""

    def write(root: Path) -> Path:
        for file in files:
            for index in range(count):
                place = root / file
                picture(place.with_stem(f"{place.stem}{index}") if count > 1 else place)
        return root

    return write


def extra(name: str, content: bytes, base: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """A folder with one more file."""

    def write(root: Path) -> Path:
        base(root)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
        return root

    return write


def table(name: str, **columns: Any) -> Callable[[Path], Path]:
    """A table of twelve images; columns that are given replace the usual ones."""

    def write(root: Path) -> Path:
        names = [picture(root / f"{index}.png") for index in range(COUNT)]
        frame = pd.DataFrame({"image": names, "label": ["ill", "well"] * (COUNT // 2), **columns}, dtype=object)
        file = root / name
        if name.endswith(".parquet"):
            frame.to_parquet(file)
        elif name.endswith(".xlsx"):
            frame.to_excel(file, index=False)
        elif name.endswith(".jsonl"):
            file.write_text("\n".join(json.dumps(row) for row in frame.to_dict("records")))
        else:
            frame.to_csv(file, index=False, sep="\t" if ".tsv" in name else ",")
        return file

    return write


def npz(**arrays: Any) -> Callable[[Path], Path]:
    """MedMNIST's layout with these arrays in the place of the usual ones."""

    def write(root: Path) -> Path:
        usual = {"train_images": noise(COUNT, 8, 8), "train_labels": np.arange(COUNT)[:, None] % 2}
        np.savez(root / "a.npz", **{**usual, **arrays})
        return root / "a.npz"

    return write


def deep(dtype: Any, white: float, suffix: str, labels: int = 2) -> Callable[[Path], Path]:
    """Class folders of images of more than 8 bits."""

    def write(root: Path) -> Path:
        for index in range(COUNT):
            picture(root / "ab"[index % labels] / f"{index}{suffix}", (RANDOM.random((8, 8)) * white).astype(dtype))
        return root

    return write


def saved(**splits: Any) -> Callable[[Path], Path]:
    """A folder of `save_to_disk`; split -> labels."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ill", "well"])})

    def write(root: Path) -> Path:
        made = {
            split: datasets.Dataset.from_dict(
                {"image": [Image.fromarray(noise()) for _ in labels], "label": labels}, features
            )
            for split, labels in splits.items()
        }
        datasets.DatasetDict(made).save_to_disk(str(root / "saved"))
        return root / "saved"

    return write


def folder_cases() -> Iterator[Case]:
    """Folders of images."""
    form, classes = "folder of images", tree("ill/a.png", "well/a.png", count=6)
    yield Case(form, "`class/image`", classes)
    yield Case(
        form,
        "`split/class/image`, splits `Training`, `Val`, `hold-out`",
        tree(
            *(f"{split}/{name}/a.png" for split in ("Training", "Val", "hold-out") for name in ("ill", "well")),
            count=4,
        ),
    )
    yield Case(
        form, "files that are called `train_0.png`, `test_1.png`", tree("ill/train_0.png", "well/test_1.png", count=6)
    )
    yield Case(form, "`class/folder/image`", tree("ill/left/a.png", "well/right/a.png", count=2))
    yield Case(
        form,
        "a folder beside the splits that is none",
        tree("train/ill/a.png", "train/well/a.png", "extra/ill/a.png", count=2),
    )
    yield Case(form, "images in no class folder", tree("a.png", count=3))
    yield Case(form, "images in `train/` and `test/`, no class folders", tree("train/a.png", "test/a.png", count=2))
    beside = tree("unlabelled/a.png", "ill/a.png", "well/a.png", count=6)
    yield Case(form, "a folder `unlabelled`, `unlabelled=True`", beside, UNLABELLED)
    yield Case(form, "`label_fraction=0.5`, `unlabelled=True`", classes, {**UNLABELLED, "label_fraction": 0.5})
    yield Case(form, "hidden files, companions", extra("ill/.DS_Store", b"", extra("README.md", b"", classes)))
    yield Case(form, "a broken image", extra("ill/broken.png", b"404", classes))
    yield Case(form, "a broken image, `skip_unreadable=True`", extra("ill/broken.png", b"404", classes), SKIP)
    yield Case(form, "a volume (`.nii.gz`, `.npy`, ...)", extra("ill/scan.nii.gz", b"12345678", classes))
    yield Case(
        form,
        "a class of which all images are broken, `skip_unreadable=True`",
        extra("rare/a.png", b"404", classes),
        SKIP,
    )
    yield Case(form, "`group_column`", classes, {"group_column": "patient"})
    yield Case("deep images", "PNG of 16 bits", deep(np.uint16, 65535, ".png"))
    yield Case("deep images", "PNG of 12 bits in 16", deep(np.uint16, 4095, ".png"))
    yield Case("deep images", "TIFF of fractions", deep(np.float32, 1, ".tif"))
    yield Case(
        "deep images",
        "16 bits beside fractions",
        lambda root: deep(np.float32, 1, ".tif")(deep(np.uint16, 65535, ".png")(root)),
    )


SKIP = {"skip_unreadable": True}


def dicom(**files: str) -> Callable[[Path], Path]:
    """Files that come with pydicom, two classes in two splits; class -> name."""

    def write(root: Path) -> Path:
        for split in ("train", "val"):
            for name, file in files.items():
                place = root / split / name / f"1.2.840.{len(file)}"
                place.parent.mkdir(parents=True)
                shutil.copy(get_testdata_file(file, download=False), place)
        return root

    return write


def dicom_cases() -> Iterator[Case]:
    """DICOM."""
    usual = dicom(ct="CT_small.dcm", mr="MR_small.dcm")
    yield Case("DICOM", "a folder of files with any names", usual)
    yield Case("DICOM", "`dicom_window=(40, 400)`", usual, {"dicom_window": (40, 400)})
    yield Case("DICOM", "a window without width", usual, {"dicom_window": (40, 0)})
    yield Case("DICOM", "pictures beside them", extra("train/ct/a.png", png(), usual))
    yield Case("DICOM", "several frames", dicom(ct="CT_small.dcm", several="SC_rgb_rle_2frame.dcm"))
    yield Case(
        "DICOM",
        "several frames, `skip_unreadable=True`",
        dicom(ct="CT_small.dcm", several="SC_rgb_rle_2frame.dcm"),
        SKIP,
    )


def png() -> bytes:
    """A picture of noise, as it lies on a disk."""
    stream = io.BytesIO()
    Image.fromarray(noise()).save(stream, "PNG")
    return stream.getvalue()


def table_cases() -> Iterator[Case]:
    """Tables."""
    for name in ("t.csv", "t.tsv", "t.csv.gz", "t.jsonl", "t.parquet", "t.xlsx"):
        yield Case("table", f"`{name[1:]}`", table(name))
    usual = "table (`.csv`)"
    yield Case(
        usual,
        "a column `split`: `train`, `Dev`, `Testing`",
        table("t.csv", split=["train"] * 6 + ["Dev"] * 4 + ["Testing"] * 2),
    )
    yield Case(
        usual, "splits that are none, empty cells", table("t.csv", split=["train"] * 6 + ["extra"] * 4 + [None] * 2)
    )
    yield Case(usual, "classes `NA`, `None`", table("t.csv", label=["NA", "None"] * 6))
    yield Case(usual, "labels `0.0`, `1.0`", table("t.csv", label=[0.0, 1.0] * 6))
    yield Case(usual, "labels `5`, `6`", table("t.csv", label=[5, 6] * 6))
    yield Case(usual, "labels `0.5`, `1`", table("t.csv", label=[0.5, 1] * 6))
    yield Case(usual, "an empty label", table("t.csv", label=[None, *["ill", "well"] * 5, "ill"]))
    bare = table("t.csv", label=[None, *["ill", "well"] * 5, "ill"])
    yield Case(usual, "an empty label, `unlabelled=True`", bare, UNLABELLED)
    yield Case(usual, "labels `a|b`, `multi_label=True`", table("t.csv", label=["a|b", "b", ""] * 4), SEVERAL)
    yield Case(usual, "an image that is not there", table("t.csv", image=["nowhere.png", *NAMES[1:]]))
    yield Case(
        usual,
        "a patient on both sides, `group_column`",
        table("t.csv", patient=["p"] * 12, split=["train"] * 6 + ["val"] * 6),
        GROUPS,
    )
    yield Case(
        usual, "a patient that is missing, `group_column`", table("t.csv", patient=[None, *"abcdefghijk"]), GROUPS
    )
    yield Case(usual, "no column of that name", table("t.csv"), {"label_column": "finding"})
    yield Case("table (`.jsonl`)", "vectors of 0 and 1", table("t.jsonl", label=[[0, 1], [1, 0]] * 6))
    yield Case(
        "table (`.jsonl`)",
        "vectors of 0 and 1, `multi_label=True`",
        table("t.jsonl", label=[[0, 1], [1, 1]] * 6),
        SEVERAL,
    )
    yield Case(
        "folder of tables",
        "`train.csv`, `val.csv`",
        lambda root: table("val.csv")(table("train.csv")(root).parent / "more").parents[1],
    )
    yield Case(
        "folder of tables",
        "an image that no table lists",
        extra("more.png", b"", lambda root: table("t.csv")(root).parent),
    )


NAMES = [f"{index}.png" for index in range(COUNT)]
SEVERAL = {"multi_label": True}
UNLABELLED = {"unlabelled": True}
GROUPS = {"group_column": "patient"}


def array_cases() -> Iterator[Case]:
    """MedMNIST and data sets of `datasets`."""
    form = "MedMNIST `.npz`"
    yield Case(form, "binary, grey", npz())
    yield Case(
        form,
        "several classes, colour",
        npz(train_images=noise(COUNT, 8, 8, 3), train_labels=np.arange(COUNT)[:, None] % 3),
    )
    yield Case(form, "`[N, 14]` labels", npz(train_labels=RANDOM.integers(0, 2, (COUNT, 14))))
    yield Case(
        form,
        "`[N, 14]` labels, `multi_label=True`",
        npz(train_labels=np.tile(np.eye(14), (2, 1))[:COUNT][:, :6]),
        SEVERAL,
    )
    yield Case(form, "three-dimensional", npz(train_images=noise(COUNT, 8, 8, 8)))
    yield Case(form, "`uint16`", npz(train_images=RANDOM.integers(0, 60000, (COUNT, 8, 8), dtype=np.uint16)))
    yield Case(form, "unequal lengths", npz(train_labels=np.arange(5)))
    yield Case("`save_to_disk`", "splits `train`, `valid`", saved(train=[0, 1] * 6, valid=[0, 1]))
    yield Case("`save_to_disk`", "a split without labels (-1)", saved(train=[0, 1] * 6, test=[-1, -1]))
    bare = saved(train=[0, 1] * 6, valid=[0, 1, -1, -1], test=[-1, -1])
    yield Case("`save_to_disk`", "-1 in `valid` and `test`, `unlabelled=True`", bare, UNLABELLED)
    yield Case("`save_to_disk`", "a split that is none", saved(train=[0, 1] * 6, extra=[0, 1]))
    yield Case(
        "other files", "`.h5`, a single picture, ...", lambda root: extra("a.h5", b"", lambda r: r)(root) / "a.h5"
    )


def outcome(case: Case) -> str:
    """What becomes of a case, in words."""
    with tempfile.TemporaryDirectory() as folder:
        data = case.write(Path(folder))
        try:
            target = load_target(data, **case.options)
        except DataError as error:
            text = f"refused: {error}"
        else:
            text = f"accepted: {described(target)}"
    return text.replace(f"{folder}/", "").replace(folder, "data")


def described(target: Target) -> str:
    """Splits, classes, rule of the pixels and what is left out."""
    sizes = ", ".join(f"{split} {len(rows)}" for split, rows in target.items())
    sizes += "" if target.unlabelled is None else f", unlabelled {len(target.unlabelled)}"
    parts = [sizes, f"classes {', '.join(target.classes)}"]
    rule = target.pixel_rule or {}
    if rule.get("deep_images"):
        parts.append(f"{rule['black']:g} is black, {rule['white']:g} white")
    if "dicom_window" in rule:
        parts.append(f"window {rule['dicom_window']}")
    parts += [f"left out {what} ({reason})" for what, reason in target.left_out]
    return "; ".join(parts)


def rows() -> Iterator[str]:
    """The rows of the table."""
    for cases in (folder_cases, dicom_cases, table_cases, array_cases):
        for case in cases():
            text = outcome(case).replace("|", "\\|")
            yield f"| {case.form} | {case.what.replace('|', chr(92) + '|')} | {text} |"


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    datasets.disable_progress_bars()
    print(HEAD, *rows(), sep="\n")
