"""Target data sets as a `datasets.DatasetDict` with columns `image` and `label` and checked labels."""

import io
import logging
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image

from .errors import DataError


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
    """

    name: str = ""
    hub_id: str | None = None
    revision: str | None = None


def load_target(
    data: str,
    *,
    name: str | None = None,
    revision: str | None = None,
    image_column: str = "image",
    label_column: str = "label",
    validation_fraction: float = 0.2,
    test_fraction: float = 0.0,
    label_fraction: float = 1.0,
    skip_unreadable: bool = False,
    seed: int = 0,
) -> Target:
    """Load the images and labels of the target task.

    Args:
        data: an imagefolder (`split/class/image`), any folder that `datasets.load_dataset` reads, a Hub data set id,
            or a `.npz` in MedMNIST's layout (`train_images`, `train_labels`, `val_...`, `test_...`).
        name: configuration of a Hub data set.
        revision: of a Hub data set.
        image_column: its column of images.
        label_column: its column of class indices or names.
        validation_fraction: share of the training images to split off, by class, where there is no validation split.
        test_fraction: likewise for the test split; 0 goes without.
        label_fraction: share of each class's training and validation images that is used (at least one of each), for
            label-efficiency curves; the test split stays whole.
        skip_unreadable: leave unreadable images out, each named in a warning, instead of raising.
        seed: of the splits made here.

    Returns:
        Splits `train`, `validation` and, if there is one, `test`, with columns `image` and `label` (`ClassLabel`).

    Raises:
        DataError: no such data, no labels, a label out of range, an unreadable image, a class that a split lacks.
    """
    origin = _find(data, revision)
    if data.endswith(".npz"):
        raw = _read_npz(Path(data))
    else:
        raw = _read_dataset(origin.hub_id or str(Path(data).expanduser()), name, origin.revision)
    splits = {}
    for split, aliases in SPLITS.items():
        found = next((raw[alias] for alias in aliases if alias in raw), None)
        if found is not None:
            splits[split] = _select_columns(found, image_column, label_column, f"{data} ({split})")
    if "train" not in splits:
        raise DataError(
            f"{data!r} has no training split, only {sorted(raw)}. An imagefolder is train/class/image.jpg."
        )
    target = datasets.DatasetDict(splits)
    target = _check_images(target, skip_unreadable)
    target = _class_labels(target, data)
    target = _split_off(_split_off(target, "test", test_fraction, seed), "validation", validation_fraction, seed)
    if "validation" not in target:
        raise DataError(
            f"{data!r} has no validation split and validation_fraction is 0: the best model is chosen on one."
        )
    _check_labels(target, data)
    if not 0 < label_fraction <= 1:
        raise DataError(f"label_fraction={label_fraction} is a share of the labels: above 0 and at most 1.")
    for split in ("train", "validation") if label_fraction < 1 else ():
        target[split] = _few_labels(target[split], label_fraction, seed)
    origin.update(target)
    return origin


def _find(data: str, revision: str | None) -> Target:
    """What a name stands for; a revision on the Hub becomes the commit that it is now."""
    target, path = Target(), Path(data).expanduser()
    target.name = path.name.removesuffix(".npz")
    if path.is_dir() or data.endswith(".npz"):
        return target
    if data.startswith((".", "/", "~")) or path.suffix.lower() in FILE_SUFFIXES or path.is_file():
        raise DataError(f"{data!r}: no such folder (looked at {path.absolute()}).")
    from huggingface_hub import HfApi

    target.hub_id = data
    try:
        target.revision = HfApi().dataset_info(data, revision=revision).sha
    except Exception as error:  # load_dataset explains, or has it in its cache
        logger.debug("%s: no commit found (%s)", data, error)
        target.revision = revision
    return target


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


def _select_columns(split: Any, image_column: str, label_column: str, where: str) -> Any:
    for column in (image_column, label_column):
        if column not in split.column_names:
            raise DataError(
                f"{where} has no column {column!r}, only {split.column_names}: set image_column or label_column. "
                "Images in a folder get their label from the class folder that they lie in."
            )
    split = split.select_columns([image_column, label_column])
    for column, wanted in ((image_column, "image"), (label_column, "label")):
        split = split if column == wanted else split.rename_column(column, wanted)
    return split


def _problem(row: dict[str, Any]) -> str | None:
    """Why an undecoded image cannot be read, or None."""
    encoded = row["image"] or {}
    try:
        Image.open(io.BytesIO(encoded["bytes"]) if encoded.get("bytes") else encoded["path"]).convert("RGB")
    except Exception as error:  # Pillow raises almost anything on broken files
        return f"{encoded.get('path')}: {error}"
    return None


def _check_images(target: datasets.DatasetDict, skip: bool) -> datasets.DatasetDict:
    """Decode every image once, so that a broken one is named before training and not in the middle of it."""
    for split, rows in target.items():
        undecoded = rows.cast_column("image", datasets.Image(decode=False))
        with ThreadPoolExecutor() as pool:
            problems = list(pool.map(_problem, undecoded))
        bad = [index for index, problem in enumerate(problems) if problem]
        if bad and not skip:
            raise DataError(
                f"{len(bad)} images of split {split!r} cannot be read, the first is {problems[bad[0]]}. "
                "Repair or remove them, or pass skip_unreadable=True."
            )
        for index in bad:
            logger.warning("Split %s: skipped unreadable image %s", split, problems[index])
        if bad:
            broken = set(bad)
            target[split] = rows.select([index for index in range(len(rows)) if index not in broken])
    return target


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


def _split_off(target: datasets.DatasetDict, split: str, fraction: float, seed: int) -> datasets.DatasetDict:
    if split in target or not fraction:
        return target
    try:
        parts = target["train"].train_test_split(fraction, seed=seed, stratify_by_column="label")
    except ValueError as error:
        raise DataError(f"No {split} split can be taken from the training images by class ({error}).") from error
    return datasets.DatasetDict({**target, "train": parts["train"], split: parts["test"]})


def _few_labels(rows: datasets.Dataset, fraction: float, seed: int) -> datasets.Dataset:
    """A share of each class, drawn at random."""
    labels, random = np.asarray(rows["label"]), np.random.default_rng(seed)
    kept = []
    for label in np.unique(labels):
        places = random.permutation(np.flatnonzero(labels == label))
        kept += places[: max(1, round(fraction * len(places)))].tolist()
    return rows.select(sorted(kept))


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


class Pixels(torch.utils.data.Dataset):
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
