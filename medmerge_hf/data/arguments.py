"""What `load_target` was given, checked before anything is read."""

import numbers
import os
from typing import Any

import numpy as np

from ..errors import DataError


def check_fractions(fractions: dict[str, float], label_fraction: float) -> None:
    """Shares of the images.

    Raises:
        DataError: one is none.
    """
    for split, fraction in fractions.items():
        if not _is_number(fraction) or not 0 <= fraction < 1:
            raise DataError(f"{split}_fraction={fraction!r} is a share of the training images: from 0 to below 1.")
    if not _is_number(label_fraction) or not 0 < label_fraction <= 1:
        raise DataError(f"label_fraction={label_fraction!r} is a share of the labels: above 0 and at most 1.")


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_switches(**switches: Any) -> None:
    """Options that are on or off.

    Raises:
        DataError: one is none.
    """
    for name, value in switches.items():
        if not isinstance(value, (bool, np.bool_)):  # the text "no" would switch it on
            raise DataError(f"{name}={value!r} is True or False.")


def check_unlabelled(unlabelled: Any) -> None:
    """Whether images without a label are used, or where they lie.

    Raises:
        DataError: one is none.
    """
    if not isinstance(unlabelled, (bool, np.bool_, os.PathLike)) and not (unlabelled and isinstance(unlabelled, str)):
        raise DataError(f"unlabelled={unlabelled!r} is True or False, or where images lie.")


def check_seed(seed: Any) -> None:
    """The seed of the splits.

    Raises:
        DataError: one is none.
    """
    if not isinstance(seed, numbers.Integral) or seed < 0:
        raise DataError(f"seed={seed!r} is a whole number from 0.")


def check_columns(image: Any, label: Any, group: Any) -> None:
    """Names of columns.

    Raises:
        DataError: one is none.
    """
    for option, column in (("image_column", image), ("label_column", label), ("group_column", group)):
        if not isinstance(column, str) and not (column is None and option == "group_column"):
            raise DataError(f"{option}={column!r} is the name of a column.")
    if image == label:
        raise DataError(f"image_column and label_column are both {image!r}: give each its own column.")
