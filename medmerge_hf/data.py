"""Target data sets as a `datasets.DatasetDict` with columns `image` and `label` and checked labels."""

import hashlib
import io
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image

from .errors import DataError
from .splitting import GROUP, check_groups, cross_duplicates, few_labels, split_off
from .tables import READERS, has_dicom, read_dicom_folder, read_table


logger = logging.getLogger(__name__)


SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}


# A name that ends so is no Hub id.
FILE_SUFFIXES = (".csv", ".json", ".jsonl", ".parquet", ".zip", ".tar", ".gz", ".h5", ".txt", ".dcm")


class Target(datasets.DatasetDict):
    """The splits of a target data set, and where they come from.

    Attributes:
        name: last part of the path or Hub id.
        hub_id: of a data set on the Hub, else `None`.
        revision: commit sha on the Hub, else `None`.
        multi_label: whether an image may have several labels.
    """

    name: str = ""
    hub_id: str | None = None
    revision: str | None = None
    multi_label: bool = False
    _names: Sequence[str] = ()

    @property
    def classes(self) -> list[str]:
        """Names of the labels."""
        return list(self._names or self["train"].features["label"].names)


def load_target(
    data: str,
    *,
    name: str | None = None,
    revision: str | None = None,
    image_column: str = "image",
    label_column: str = "label",
    group_column: str | None = None,
    multi_label: bool = False,
    dicom_window: Sequence[float] | None = None,
    validation_fraction: float = 0.2,
    test_fraction: float = 0.0,
    label_fraction: float = 1.0,
    skip_unreadable: bool = False,
    drop_duplicates: bool = False,
    seed: int = 0,
) -> Target:
    """Load the images and labels of the target task.

    Args:
        data: an imagefolder (`split/class/image`), the same of DICOM files, any folder that `datasets.load_dataset`
            reads, a Hub data set id, a table with a row an image (`.csv`, `.tsv`, `.jsonl`, `.parquet`; a column
            `split` may say where each belongs), or a `.npz` in MedMNIST's layout (`train_images`, `train_labels`,
            ...).
        name: configuration of a Hub data set.
        revision: of a Hub data set.
        image_column: its column of images.
        label_column: its column of class indices or names.
        group_column: its column of patients, each of which stays on one side of every split.
        multi_label: an image may have several labels: lists, or text with `|` between them (nothing is no label).
        dicom_window: centre and width of DICOM images, see [`read_dicom`].
        validation_fraction: share of the training images to split off, by class, where there is no validation split.
        test_fraction: likewise for the test split; 0 goes without.
        label_fraction: share of each class's training and validation images that is used (at least one of each), for
            label-efficiency curves; the test split stays whole.
        skip_unreadable: leave unreadable images out, each named in a warning, instead of raising.
        drop_duplicates: leave images out of a split that also stand (pixel by pixel) in a stricter one, test before
            validation before train; otherwise there is a warning.
        seed: of the splits made here.

    Returns:
        Splits `train`, `validation` and, if there is one, `test`, with columns `image` and `label` (`ClassLabel`, or
        `K` floats of several labels).

    Raises:
        DataError: no such data, no labels, a label out of range, an unreadable image, a class that a split lacks, a
            patient in two splits.
    """
    origin = _find(data, revision)
    raw = _read(data, origin, name, image_column, dicom_window)
    splits = {}
    for split, aliases in SPLITS.items():
        found = next((raw[alias] for alias in aliases if alias in raw), None)
        if found is not None:
            columns = {image_column: "image", label_column: "label", **({group_column: GROUP} if group_column else {})}
            splits[split] = _select_columns(found, columns, f"{data} ({split})")
    if "train" not in splits:
        raise DataError(
            f"{data!r} has no training split, only {sorted(raw)}. An imagefolder is train/class/image.jpg."
        )
    target = _check_images(datasets.DatasetDict(splits), skip_unreadable, drop_duplicates)
    origin.multi_label = multi_label
    if multi_label:
        target, origin._names = _several_labels(target, data)
    else:
        target = _class_labels(target, data)
    target = split_off(split_off(target, "test", test_fraction, seed), "validation", validation_fraction, seed)
    check_groups(target)
    if "validation" not in target:
        raise DataError(
            f"{data!r} has no validation split and validation_fraction is 0: the best model is chosen on one."
        )
    if not multi_label:
        _check_labels(target, data)
    if not 0 < label_fraction <= 1:
        raise DataError(f"label_fraction={label_fraction} is a share of the labels: above 0 and at most 1.")
    for split in ("train", "validation") if label_fraction < 1 else ():
        target[split] = few_labels(target[split], label_fraction, seed)
    origin.update(target)
    return origin


def _find(data: str, revision: str | None) -> Target:
    """What a name stands for; a revision on the Hub becomes the commit that it is now."""
    target, path = Target(), Path(data).expanduser()
    target.name = path.name.removesuffix(".npz")
    if path.is_dir() or data.endswith(".npz") or (path.is_file() and path.suffix.lower() in READERS):
        return target
    if data.startswith((".", "/", "~")) or path.suffix.lower() in FILE_SUFFIXES or path.is_file():
        raise DataError(f"{data!r}: no such folder or table (looked at {path.absolute()}).")
    from huggingface_hub import HfApi

    target.hub_id = data
    try:
        target.revision = HfApi().dataset_info(data, revision=revision).sha
    except Exception as error:  # load_dataset explains, or has it in its cache
        logger.debug("%s: no commit found (%s)", data, error)
        target.revision = revision
    return target


def _read(data: str, origin: Target, name: str | None, image_column: str, window: Sequence[float] | None) -> Any:
    path = Path(data).expanduser()
    if data.endswith(".npz"):
        return _read_npz(Path(data))
    if path.is_file():
        return read_table(path, image_column, window)
    if path.is_dir() and has_dicom(path):
        return read_dicom_folder(path, window)
    return _read_dataset(origin.hub_id or str(path), name, origin.revision)


def _read_dataset(data: str, name: str | None, revision: str | None) -> Any:
    try:
        return datasets.load_dataset(data, name, revision=revision)
    except (OSError, ValueError, ConnectionError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{data!r} cannot be loaded as a data set ({type(error).__name__}: {error}).") from error


def _read_npz(path: Path) -> dict[str, datasets.Dataset]:
    try:
        arrays = np.load(path, allow_pickle=False)
        found = {key: arrays[key] for key in arrays.files}
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{str(path)!r} is not a readable .npz ({error}).") from error
    splits = {}
    for split in ("train", "val", "test"):
        if f"{split}_images" not in found:
            continue
        images, labels = found[f"{split}_images"], found.get(f"{split}_labels", np.empty(0))
        if len(labels) != len(images):
            raise DataError(f"{str(path)!r}: {split}_images has {len(images)} entries, {split}_labels {len(labels)}.")
        columns = {
            "image": [Image.fromarray(image) for image in images],
            "label": labels.reshape(len(labels), -1)[:, 0],
        }
        splits[split] = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    return splits


def _select_columns(split: Any, columns: dict[str, str], where: str) -> Any:
    for column, wanted in columns.items():
        if column not in split.column_names:
            raise DataError(
                f"{where} has no column {column!r}, only {split.column_names}: set {wanted}_column. "
                "Images in a folder get their label from the class folder that they lie in."
            )
    split = split.select_columns(list(columns))
    for column, wanted in columns.items():
        split = split if column == wanted else split.rename_column(column, wanted)
    return split


def _look(row: dict[str, Any]) -> tuple[str | None, str]:
    """Why an undecoded image cannot be read, or None; and a digest of its pixels."""
    encoded = row["image"] or {}
    try:
        image = Image.open(io.BytesIO(encoded["bytes"]) if encoded.get("bytes") else encoded["path"]).convert("RGB")
    except Exception as error:  # Pillow raises almost anything on broken files
        return f"{encoded.get('path')}: {error}", ""
    return None, hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()


def _check_images(target: datasets.DatasetDict, skip: bool, drop: bool) -> datasets.DatasetDict:
    """Decode every image once: a broken one is named before training and not in the middle of it, duplicates too."""
    digests: dict[str, list[str]] = {}
    for split, rows in target.items():
        undecoded = rows.cast_column("image", datasets.Image(decode=False))
        with ThreadPoolExecutor() as pool:
            looked = list(pool.map(_look, undecoded))
        problems = [problem for problem, _ in looked]
        bad = [index for index, problem in enumerate(problems) if problem]
        if bad and not skip:
            raise DataError(
                f"{len(bad)} images of split {split!r} cannot be read, the first is {problems[bad[0]]}. "
                "Repair or remove them, or pass skip_unreadable=True."
            )
        for index in bad:
            logger.warning("Split %s: skipped unreadable image %s", split, problems[index])
        target[split] = _without(rows, bad)
        digests[split] = [digest for problem, digest in looked if not problem]
    for split, places in cross_duplicates(digests).items():
        what = f"{len(places)} images of split {split!r} also stand in a split that is held back"
        logger.warning("%s: %s.", what, "left out" if drop else "pass drop_duplicates=True to leave them out")
        target[split] = _without(target[split], places) if drop else target[split]
    return target


def _without(rows: datasets.Dataset, places: Sequence[int]) -> datasets.Dataset:
    left_out = set(places)
    return rows.select([index for index in range(len(rows)) if index not in left_out]) if places else rows


def _several_labels(target: datasets.DatasetDict, data: str) -> tuple[datasets.DatasetDict, list[str]]:
    """Lists of labels, or text with `|` between them, as one number a label."""

    def parts(value: Any) -> list[str]:
        values = value.split("|") if isinstance(value, str) else value or []
        return [str(v).strip() for v in (values if isinstance(values, (list, tuple)) else [values]) if str(v).strip()]

    names = sorted({name for rows in target.values() for value in rows["label"] for name in parts(value)})
    if not names:
        raise DataError(f"{data!r} has no labels at all.")
    for split, rows in target.items():
        given = [parts(value) for value in rows["label"]]
        numbers = [[float(name in own) for name in names] for own in given]
        column = datasets.Sequence(datasets.Value("float32"), length=len(names))
        target[split] = rows.remove_columns("label").add_column("label", numbers).cast_column("label", column)
    missing = [name for place, name in enumerate(names) if not any(row[place] for row in target["train"]["label"])]
    if missing:
        raise DataError(f"{data!r}: the training split has no image with {', '.join(missing)}.")
    return target, names


def _class_labels(target: datasets.DatasetDict, data: str) -> datasets.DatasetDict:
    """Give names to classes that are bare numbers or strings."""
    if isinstance(target["train"].features["label"], datasets.ClassLabel):
        return target
    values = sorted({value for rows in target.values() for value in rows["label"]}, key=lambda v: (v is None, v))
    if not values or values[0] is None or values[-1] is None:
        raise DataError(f"{data!r} has images without a label. Every image needs one.")
    numbers = all(isinstance(value, int) for value in values)
    if numbers and values != list(range(len(values))):
        raise DataError(
            f"{data!r} has labels {values[:5]}...{values[-1]}: class indices must run from 0 without a gap."
        )
    feature = datasets.ClassLabel(names=[str(value) for value in values])
    if not numbers:
        target = target.map(lambda row: {"label": feature.str2int(row["label"])})
    return target.cast_column("label", feature)


def _check_labels(target: datasets.DatasetDict, data: str) -> None:
    names = target["train"].features["label"].names
    if len(names) < 2:
        raise DataError(f"{data!r} has {len(names)} class {names}: there is nothing to classify.")
    for split, rows in target.items():
        counts = Counter(rows["label"])
        outside = sorted({str(label) for label in counts if label is None or not 0 <= label < len(names)})
        if outside:
            raise DataError(f"{data!r}: split {split!r} has labels {outside} outside 0..{len(names) - 1}.")
        empty = [name for index, name in enumerate(names) if not counts[index]]
        if empty:
            raise DataError(
                f"{data!r}: split {split!r} has no image of class {', '.join(empty)}; its macro F1 would mean "
                "nothing. Move images there, or leave the class out of every split."
            )
        logger.info("Split %s: %s", split, {name: counts[index] for index, name in enumerate(names)})


class ImageDataset(torch.utils.data.Dataset):
    """A split as a `Trainer` takes it: `pixel_values` and `labels`.

    Args:
        rows: a split of [`load_target`].
        transform: image -> `[C, H, W]` tensor, called at every access.
    """

    def __init__(self, rows: Any, transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.rows, self.transform = rows, transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        return {"pixel_values": self.transform(row["image"]), "labels": row["label"]}
