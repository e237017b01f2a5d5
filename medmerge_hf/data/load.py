"""A target data set: read in whatever form it lies there, divided into splits, checked, handed out."""

import dataclasses
import logging
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image

from ..errors import DataError
from . import gate
from .arguments import check_columns, check_fractions, check_seed, check_switches, check_unlabelled
from .decoded import DecodedImages, row_of
from .dicom import checked_window
from .images import delivered, look_at
from .labels import read_labels
from .listing import COMPANIONS, Listing, Request
from .readers import find_reader
from .splits import FAR, UNLABELLED, assign, bound_units, draw, few
from .unlabelled import divide, leave_known, tell_range, with_images_of, without_label


logger = logging.getLogger(__name__)

# A name that ends so is no Hub id.
FILES = COMPANIONS | {".npz", ".zip", ".tar", ".gz", ".h5", ".hdf5", ".dcm", ".png", ".jpg", ".jpeg", ".tif", ".tiff"}

# A Hub id with a revision.
ON_HUB = re.compile(r"([\w.-]+/[\w.-]+)@([\w./-]+)")


class Target(datasets.DatasetDict):
    """The splits of a target data set, and where they come from.

    Attributes:
        name: last part of the path or Hub id.
        hub_id: of a data set on the Hub, else `None`.
        revision: commit sha on the Hub, else `None`.
        multi_label: whether an image may have several labels.
        unlabelled: images to be used without a label, a column `image` of the pixels that the splits have; `None`
            where none was asked for.
        unlabelled_from: last part of the path, or Hub id and commit, of other data that some of them are from.
        left_out: what lay there and is not used, and why.
        pixel_rule: how pixel values became 8 bits: `mode` of all images, the values that are `black` and `white`;
            `deep_images` and `dicom_images` say how many there were, `dicom_window` how DICOM was windowed,
            `dicom_ends` what is black and white where neither it nor a file has a window.
    """

    name: str = ""
    hub_id: str | None = None
    revision: str | None = None
    multi_label: bool = False
    unlabelled: datasets.Dataset | None = None
    unlabelled_from: str | None = None
    left_out: Sequence[tuple[str, str]] = ()
    pixel_rule: dict[str, Any] | None = None
    _names: Sequence[str] = ()

    @property
    def classes(self) -> list[str]:
        """Names of the labels, in the order of their indices."""
        return list(self._names or self["train"].features["label"].names)

    def counts(self, split: str) -> np.ndarray:
        """How many images of a split have each label, `[K]`."""
        labels = np.asarray(self[split]["label"])
        return labels.sum(0) if self.multi_label else np.bincount(labels, minlength=len(self.classes))


class ImageDataset(torch.utils.data.Dataset):
    """A split as a `Trainer` takes it: `pixel_values` and `labels`; of images without a label, `pixel_values` alone.

    The images of a split of [`load_target`] come from memory, where they were decoded to be checked, unless they are
    too many for it.

    Args:
        rows: a split of [`load_target`], or its `unlabelled`.
        transform: image -> `[C, H, W]` tensor, called at every access.
    """

    def __init__(self, rows: Any, transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.rows, self.transform = rows, transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, *labels = row_of(self.rows, index)
        item = {"pixel_values": self.transform(image)}
        return {**item, "labels": labels[0]} if labels else item


def load_target(
    data: str | Path,
    *,
    name: str | None = None,
    revision: str | None = None,
    image_column: str = "image",
    label_column: str = "label",
    group_column: str | None = None,
    multi_label: bool = False,
    unlabelled: bool | str | Path = False,
    dicom_window: Sequence[float] | None = None,
    validation_fraction: float = 0.2,
    test_fraction: float = 0.0,
    label_fraction: float = 1.0,
    skip_unreadable: bool = False,
    drop_duplicates: bool = False,
    seed: int = 0,
) -> Target:
    """Load the images and labels of the target task.

    Every file and row that lies there is used, or stands in `left_out` with its reason, or the call is refused.

    Args:
        data: a folder of images or DICOM files (`class/image` or `split/class/image`), a table with a row an image
            (`.csv`, `.tsv`, `.jsonl`, `.parquet`, `.xlsx`; a column `split` may say where each belongs) or a folder of
            tables, a folder of `save_to_disk`, a `.npz` in MedMNIST's layout, or a Hub data set id.
        name: configuration of a Hub data set.
        revision: of a Hub data set.
        image_column: its column of images.
        label_column: its column of class indices or names.
        group_column: its column of patients, each of which stays on one side of every split.
        multi_label: an image may have several labels: lists, vectors of 0 and 1, or text with `|` between them
            (nothing is no label).
        unlabelled: also hand out, as `target.unlabelled`, what has no label in use: images and rows without one, a
            split of that name, training and validation images that `label_fraction` spares. A path or a Hub id
            (`@revision`) adds all images that lie there, in any form that `data` may have; labels and splits there
            are not read. Never an image, or one of a group, that stands in validation or test; none of the test split.
        dicom_window: centre and width of DICOM images, see [`read_dicom`].
        validation_fraction: share of the training images to split off, by class, where there is no validation split.
        test_fraction: likewise for the test split, before it; 0 goes without.
        label_fraction: share of each class's training and validation images that is used (at least one of each), for
            label-efficiency curves; the test split stays whole.
        skip_unreadable: leave out, each named in a warning, what cannot be read, instead of raising.
        drop_duplicates: leave images out of a split that also stand (pixel by pixel) in a stricter one, test before
            validation before train; otherwise there is a warning. Splits made here hold no such images.
        seed: of the splits made here.

    Returns:
        Splits `train`, `validation` and, if there is one, `test`, with columns `image` (8 bits, all `L` or all `RGB`)
        and `label` (`ClassLabel`, or `K` floats of several labels), and `group` where asked for.

    Raises:
        DataError: no such data, no labels, a label out of range, an unreadable image, a class without training
            images, a patient in two splits; something would be left out without a word.
    """
    fractions = {"validation": validation_fraction, "test": test_fraction}
    check_fractions(fractions, label_fraction)
    check_switches(multi_label=multi_label, skip_unreadable=skip_unreadable, drop_duplicates=drop_duplicates)
    check_unlabelled(unlabelled)
    check_columns(image_column, label_column, group_column)
    check_seed(seed)
    window = checked_window(dicom_window)
    target, path = _find(data, name, revision)
    request = Request(
        str(data),
        path,
        image_column,
        label_column,
        group_column,
        name,
        target.revision if target.hub_id else None,
        bool(unlabelled),
    )
    listing = _read(request)
    if request.unlabelled and not isinstance(unlabelled, (bool, np.bool_)):
        listing, target.unlabelled_from = _with_images_of(unlabelled, listing, request)
    gate.refuse_files(listing.left_out, skip_unreadable, request.data)
    plan = assign(listing.splits, listing.places, request.data, request.unlabelled)
    bare = without_label(listing, plan, multi_label) if request.unlabelled else set()
    labels = read_labels(listing, multi_label, request.data, bare)
    groups = gate.read_groups(listing, group_column, request.data, bare)
    decoded = DecodedImages()
    looks, target.pixel_rule = look_at(listing.images, listing.places, window, decoded)
    rows = gate.Rows(request.data, listing.places, labels, looks, groups)
    tell_range(rows, bare, target.pixel_rule)
    tested = plan.get("test", [])
    plan, pool = divide(rows, plan, bare)
    kept = gate.leave_unreadable(rows, {**plan, UNLABELLED: pool}, skip_unreadable)
    pool = kept.pop(UNLABELLED)
    if drop_duplicates:
        kept = gate.leave_duplicates(rows, kept)
    gate.check_vanished(rows, plan, kept)
    plan = _divide(rows, kept, fractions, seed)
    if label_fraction < 1:
        plan, spared = _few_labels(rows, plan, label_fraction, seed)
        if unlabelled:
            pool += spared
        else:
            rows.leave_out({}, dict.fromkeys(spared, f"label_fraction={label_fraction}"), expected=True)
    if unlabelled:
        pool = leave_known(rows, plan, pool, tested)
    gate.check(rows, plan, pool)
    target.left_out = gate.report(rows, listing.left_out)
    target.multi_label, target._names = multi_label, labels.names
    whole = _hand_out(rows, listing, target)
    for split, members in plan.items():
        target[split] = whole.select(members)
        decoded.hand_out(target[split], members, target.pixel_rule["mode"])
    if unlabelled:
        target.unlabelled = whole.select(pool).select_columns(["image"])
        decoded.hand_out(target.unlabelled, pool, target.pixel_rule["mode"])
    return target


def _find(data: str | Path, name: str | None, revision: str | None) -> tuple[Target, Path]:
    """What a name stands for; a revision on the Hub becomes the commit that it is now."""
    if not isinstance(data, (str, os.PathLike)) or not str(data):
        raise DataError(f"data={data!r} is no path and no Hub id.")
    try:
        path = Path(data).expanduser()
        there = path.exists()
    except (RuntimeError, OSError, ValueError) as error:
        raise DataError(f"{str(data)!r} is no path that can be looked at ({error}).") from error
    target = Target()
    target.name = path.name.removesuffix(".npz") or path.absolute().name
    if there:
        if stray := [one for one in (name, revision) if one is not None]:
            raise DataError(
                f"{str(data)!r} is a path here, and {stray[0]!r} is of a data set on the Hub: leave it out."
            )
        return target, path
    text = str(data)
    if (
        isinstance(data, os.PathLike)
        or text[0] in "./~"
        or path.suffix.lower() in FILES
        or text.count("/") > 1
        or "\\" in text
    ):
        raise DataError(f"{text!r}: no such folder or table (looked at {path.absolute()}).")
    target.hub_id, target.revision = text, _commit(text, revision)
    return target, path


def _commit(hub_id: str, revision: str | None) -> str | None:
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(hub_id, revision=revision).sha
    except Exception as error:  # the reader explains, or has it in its cache
        logger.debug("%s: no commit found (%s)", hub_id, error)
        return revision


def _read(request: Request) -> Listing:
    """The rows, whatever lies there. Libraries that read it raise almost anything on broken files."""
    try:
        reader = find_reader(request)
        listing = reader.read(request)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{request.data!r} cannot be read ({type(error).__name__}: {error}).") from error
    if not listing.places:
        raise DataError(f"{request.data!r} ({reader.form}) has no row.")
    return listing


def _with_images_of(data: str | Path, listing: Listing, request: Request) -> tuple[Listing, str]:
    """The listing of a target with all images of other data, and what that is called."""
    pinned = ON_HUB.fullmatch(str(data)) if not os.path.exists(data) else None
    where = pinned[1] if pinned else data
    other, path = _find(where, None, pinned[2] if pinned else None)
    more = dataclasses.replace(request, data=str(where), path=path, label_column=None, name=None)
    found = with_images_of(listing, _read(dataclasses.replace(more, revision=other.revision)), str(data))
    if other.hub_id is None:
        return found, other.name
    return found, f"{other.hub_id}@{other.revision}" if other.revision else other.hub_id


def _divide(rows: gate.Rows, plan: gate.Plan, fractions: dict[str, float], seed: int) -> gate.Plan:
    """The plan with the splits that it lacks; equal images and images of a group stay together."""
    for split in ("test", "validation"):
        fraction, train = fractions[split], np.array(plan["train"])
        if split in plan or not fraction or not len(train):
            continue
        keys = [[rows.looks[row].digest for row in train], [rows.groups[row] for row in train] if rows.groups else []]
        units = bound_units(*(key for key in keys if key))
        taken = draw(rows.labels.counts[train], units, fraction, seed)
        if not taken.any():
            raise DataError(
                f"{rows.data!r}: no {split} split can be taken from the {len(train)} training images. Equal images "
                f"and those of a group stay together ({rows.places[train[0]]} with {(units == units[0]).sum() - 1} "
                f"others), which makes {units.max() + 1} units, and each class keeps one. Add images, or a {split} "
                "split of your own."
            )
        _tell_share(split, taken, units, fraction)
        plan = {**plan, "train": train[~taken].tolist(), split: train[taken].tolist()}
    if "validation" not in plan:
        raise DataError(
            f"{rows.data!r} has no validation split and validation_fraction is 0: the best model is chosen on one."
        )
    return {split: plan[split] for split in ("train", "validation", "test") if split in plan}


def _tell_share(split: str, taken: np.ndarray, units: np.ndarray, fraction: float) -> None:
    share, whole = taken.mean(), len(set(units[taken].tolist()))
    level = logging.WARNING if abs(share - fraction) > FAR else logging.INFO
    logger.log(
        level,
        "Split %s: a share of %.3f of the images (%d images in %d units that stay together), asked: %s_fraction=%s",
        *(split, share, taken.sum(), whole, split, fraction),
    )


def _few_labels(rows: gate.Rows, plan: gate.Plan, fraction: float, seed: int) -> tuple[gate.Plan, list[int]]:
    """The plan with a few of the training and validation images, and the others."""
    spared: list[int] = []
    for split in ("train", "validation"):
        members = np.array(plan[split])
        chosen = few(rows.labels.counts[members], rows.labels.single, fraction, seed)
        plan = {**plan, split: members[chosen].tolist()}
        spared += np.delete(members, chosen).tolist()
    return plan, spared


def _hand_out(rows: gate.Rows, listing: Listing, target: Target) -> datasets.Dataset:
    """All rows, also those that are left out, with the columns that are handed out."""
    assert target.pixel_rule is not None
    label: Any = datasets.ClassLabel(names=list(target._names))
    if target.multi_label:
        label = datasets.Sequence(datasets.Value("float32"), length=len(target._names))
    columns, features = {"label": rows.labels.column()}, {"label": label}
    if rows.groups is not None:
        columns, features = {**columns, "group": rows.groups}, {**features, "group": datasets.Value("string")}
    more = datasets.Dataset.from_dict(columns, datasets.Features(features))
    images = delivered(listing.images, rows.looks, target.pixel_rule["mode"])
    return datasets.concatenate_datasets([images, more], axis=1)
