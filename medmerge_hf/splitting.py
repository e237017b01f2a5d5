"""Which images belong to which split: drawn by class, a patient's on one side, none twice, or only a few of them."""

from typing import Any

import datasets
import numpy as np

from .errors import DataError


GROUP = "group"


def split_off(target: datasets.DatasetDict, split: str, fraction: float, seed: int) -> datasets.DatasetDict:
    """Take a split from the training images, by class (of multi-label targets at random); groups stay whole.

    Args:
        target: with `train`.
        split: to make, unless it is there.
        fraction: of the training images; 0 makes none.
        seed: of the draw.

    Raises:
        DataError: there are too few images or groups of a class.
    """
    if split in target or not fraction:
        return target
    rows = target["train"]
    try:
        if GROUP in rows.column_names:
            kept, taken = _by_group(rows, fraction, seed)
            parts = {"train": rows.select(kept), "test": rows.select(taken)}
        else:
            by_class = isinstance(rows.features["label"], datasets.ClassLabel)
            parts = rows.train_test_split(fraction, seed=seed, stratify_by_column="label" if by_class else None)
    except ValueError as error:
        raise DataError(f"No {split} split can be taken from the training images by class ({error}).") from error
    return datasets.DatasetDict({**target, "train": parts["train"], split: parts["test"]})


def _by_group(rows: datasets.Dataset, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    from sklearn.model_selection import GroupShuffleSplit, StratifiedGroupKFold

    if isinstance(rows.features["label"], datasets.ClassLabel):
        folds: Any = StratifiedGroupKFold(max(2, round(1 / fraction)), shuffle=True, random_state=seed)
        labels = rows["label"]
    else:
        folds, labels = GroupShuffleSplit(1, test_size=fraction, random_state=seed), None
    kept, taken = next(folds.split(np.zeros(len(rows)), labels, rows[GROUP]))
    return sorted(kept.tolist()), sorted(taken.tolist())


def few_labels(rows: datasets.Dataset, fraction: float, seed: int) -> datasets.Dataset:
    """A share of each class (of multi-label targets: of all), at least one image, drawn at random."""
    random = np.random.default_rng(seed)
    labels = np.asarray(rows["label"])
    labels = labels if labels.ndim == 1 else np.zeros(len(rows))
    kept = []
    for label in np.unique(labels):
        places = random.permutation(np.flatnonzero(labels == label))
        kept += places[: max(1, round(fraction * len(places)))].tolist()
    return rows.select(sorted(kept))


def check_groups(target: datasets.DatasetDict) -> None:
    """Every group (patient) on one side.

    Raises:
        DataError: one is in two splits.
    """
    seen: dict[Any, str] = {}
    for split, rows in target.items():
        for group in set(rows[GROUP]) if GROUP in rows.column_names else ():
            if group in seen:
                raise DataError(
                    f"Group {group!r} is in the splits {seen[group]!r} and {split!r}: a network would be tested on "
                    "patients that it has seen. Move its images to one side."
                )
            seen[group] = split


def cross_duplicates(digests: dict[str, list[str]]) -> dict[str, list[int]]:
    """Images that also stand in a split that is held back more strictly (test before validation before train).

    Args:
        digests: split -> digest of each image's pixels.

    Returns:
        Split -> places of its images that stand in a stricter one.

    Example:
        >>> cross_duplicates({"train": ["a", "b", "c"], "validation": ["b", "d"], "test": ["d"]})
        {'train': [1], 'validation': [1]}
    """
    found, held = {}, set()
    for split in ("test", "validation", "train"):
        own = digests.get(split, [])
        places = [place for place, digest in enumerate(own) if digest in held]
        if places:
            found[split] = places
        held |= set(own)
    return dict(sorted(found.items()))
