"""Labels as their type says: class indices and names, or a row of zeros and ones, one a class."""

import ast
import dataclasses
import logging
import math
import re
import reprlib
from collections.abc import Callable, Collection, Iterable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from ..errors import DataError
from .listing import Listing, is_missing
from .splits import unlabelled_hint


logger = logging.getLogger(__name__)

NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)(\.\d*)?")
SEPARATOR = "|"
# What others put between several labels.
OTHERS = re.compile(r"[,;]")
SEVERAL = (
    "Pass multi_label=True if an image may have several; where it is a vector with one 1, write the place of the 1."
)
# What a kind of labels is called in an error.
KINDS = {"truth": "true / false", "index": "a number", "name": "a name"}
SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxother = 200
SHORT.maxlist = SHORT.maxtuple = 20
NESTED = ("has a list of lists", "A label is a list of names or indices, or a vector of 0 and 1.")


@dataclasses.dataclass
class Labels:
    """What a target's rows are.

    Attributes:
        names: of the classes; their places are the indices.
        counts: `[N, K]`, 1 where row `n` is of class `k`.
        single: whether every row is of exactly one class.
    """

    names: list[str]
    counts: np.ndarray
    single: bool

    def column(self) -> list[Any]:
        """Labels as a `Trainer` takes them: an index of each row, or `K` numbers."""
        return self.counts.argmax(1).tolist() if self.single else self.counts.astype(np.float32).tolist()


class _Rows:
    """Labels in the owner's words, and how to name their rows in an error."""

    def __init__(self, listing: Listing, data: str) -> None:
        self.places, self.data, self.untyped = listing.places, data, listing.untyped
        self.splits = listing.splits or [None] * len(listing.places)
        self.values = [_plain(value) for value in listing.labels]
        if self.untyped:
            self.values = _lists(self.values)

    def refuse(self, wrong: Iterable[int], what: str, way_out: str) -> None:
        """Raise an error that names the first of some rows, if there are any."""
        rows = list(wrong)
        if rows:
            more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
            shown = SHORT.repr(self.values[rows[0]])
            raise DataError(f"{self.data!r}: {self.places[rows[0]]}{more} {what}, its label is {shown}. {way_out}")

    def hint(self, bare: Iterable[int]) -> str:
        """What helps where these rows have no label."""
        return unlabelled_hint(self.splits[row] for row in bare)

    def where(self, wrong: Callable[[Any], bool]) -> list[int]:
        return [index for index, value in enumerate(self.values) if wrong(value)]


def missing_labels(listing: Listing, multi_label: bool) -> set[int]:
    """Rows whose label is missing: nothing, an empty cell, or -1 where labels are numbers.

    With several labels an empty list or text says that an image has none of them, which is a label: only a missing
    value (`null`) is none there.
    """
    values = [_plain(value) for value in listing.labels]
    if multi_label:
        return {row for row, value in enumerate(values) if _is_unknown(value)}
    there = [value for value in values if not _is_empty(value)]
    there = _numbers(there) if listing.untyped else there
    numbers = all(_kind(value) == "index" for value in there)
    minus = (-1, "-1", "-1.0") if listing.untyped else (-1,)
    return {row for row, value in enumerate(values) if _is_empty(value) or (numbers and _stripped(value) in minus)}


def read_labels(listing: Listing, multi_label: bool, data: str, bare: Collection[int] = ()) -> Labels:
    """The labels of all rows.

    Args:
        listing: of a reader.
        multi_label: whether a row may have several labels: lists, vectors of 0 and 1, text with `|` between names.
        data: what the user asked for, for errors.
        bare: rows whose label is not read; they are of no class.

    Raises:
        DataError: a row has no label, or one that is none; class indices have gaps.
    """
    if not bare:
        return _read_all(listing, multi_label, data)
    read = [row for row in range(len(listing.places)) if row not in bare]
    if not read:
        raise DataError(f"{data!r}: no image has a label, there is nothing to classify by.")
    found, places = ([column[row] for row in read] for column in (listing.labels, listing.places))
    labels = _read_all(dataclasses.replace(listing, labels=found, places=places), multi_label, data)
    counts = np.zeros((len(listing.places), len(labels.names)))
    counts[read] = labels.counts
    return dataclasses.replace(labels, counts=counts)


def _read_all(listing: Listing, multi_label: bool, data: str) -> Labels:
    rows = _Rows(listing, data)
    if multi_label:
        return _several(rows, listing.names)
    empty = rows.where(_is_empty)
    rows.refuse(empty, "is without a label", f"Every image needs one: take the row out{rows.hint(empty)}.")
    several = rows.where(lambda value: isinstance(value, list))
    rows.refuse(several, "has several labels", SEVERAL)
    indices, names = _named(rows, rows.values, range(len(rows.values)), listing.names)
    counts = np.zeros((len(indices), len(names)))
    counts[np.arange(len(counts)), indices] = 1
    _warn_of_names(names)
    return Labels(names, counts, single=True)


def _warn_of_names(names: list[str]) -> None:
    """Tell of names that look like one class, or like several."""
    plain: dict[str, str] = {}
    for name in names:
        if other := plain.get(name.strip().lower()):
            logger.warning("%r and %r are two classes: write them alike if they are one.", other, name)
        plain[name.strip().lower()] = name
    if joined := [name for name in names if SEPARATOR in name]:
        logger.warning("%r is one class: pass multi_label=True if it is several labels.", joined[0])


def _warn_of_separators(lists: list[list[Any]]) -> None:
    """Tell of text that has another sign between labels than the one that is read."""
    joined = [one[0] for one in lists if len(one) == 1 and isinstance(one[0], str) and OTHERS.search(one[0])]
    if joined and all(len(one) < 2 for one in lists):
        logger.warning("%r is one label: write %r between several.", joined[0], SEPARATOR)


def _several(rows: _Rows, names: list[str] | None) -> Labels:
    lists = [value if isinstance(value, list) else [] if _is_none(value) else [value] for value in rows.values]
    if names is None and _are_vectors(rows.values):
        counts = np.array(rows.values, dtype=float)
        return Labels([str(index) for index in range(counts.shape[1])], counts, single=False)
    lists = [[part for value in one for part in _parts(value)] for one in lists]
    _warn_of_separators(lists)
    owners = [index for index, one in enumerate(lists) for _ in one]
    flat = [value for one in lists for value in one]
    rows.refuse([owner for owner, value in zip(owners, flat, strict=True) if isinstance(value, list)], *NESTED)
    if not flat:
        raise DataError(f"{rows.data!r} has no labels at all.")
    indices, found = _named(rows, flat, owners, names)
    counts = np.zeros((len(lists), len(found)))
    counts[owners, indices] = 1
    return Labels(found, counts, single=False)


def _parts(value: Any) -> list[Any]:
    if not isinstance(value, str):
        return [] if _is_none(value) else [value]
    return [part.strip() for part in value.split(SEPARATOR) if part.strip()]


def _are_vectors(values: Sequence[Any]) -> bool:
    """Whether all are lists of one length above 1 with nothing but 0 and 1 in them."""
    lengths = {len(value) if isinstance(value, list) else 0 for value in values}
    return len(lengths) == 1 and min(lengths) > 1 and all(part in (0, 1) for value in values for part in value)


def _named(
    rows: _Rows, values: list[Any], owners: Sequence[int], names: list[str] | None
) -> tuple[list[int], list[str]]:
    """Indices of values, and the names of the classes. Value `n` belongs to row `owners[n]`."""
    if names is not None:
        outside = [place for place, value in enumerate(values) if not _is_index(value, len(names))]
        if outside:
            told = sorted({str(values[place]) for place in outside})
            hint = rows.hint([owners[place] for place in outside]) if told == ["-1"] else ""
            raise DataError(
                f"{rows.data!r}: {rows.places[owners[outside[0]]]} has labels {told} outside 0..{len(names) - 1}, the "
                f"indices of {names[:5]}. Take these {len(outside)} rows (or their split) out, or label them{hint}."
            )
        return [int(value) for value in values], names
    values = _numbers(values) if rows.untyped else values
    kinds = [_kind(value) for value in values]
    odd = [owners[place] for place, kind in enumerate(kinds) if kind not in ("truth", "index", "name")]
    rows.refuse(odd, "is of no class", "A label is a name, a whole number from 0, or true / false.")
    if len(set(kinds)) > 1:
        odd = [owners[place] for place, kind in enumerate(kinds) if kind != kinds[0]]
        rows.refuse(odd, f"is not {KINDS[kinds[0]]} as the labels before", "Give all classes names, or numbers.")
    if kinds and kinds[0] == "index":
        return _indices(rows, values)
    found = sorted(set(values))
    places = {value: place for place, value in enumerate(found)}
    return [places[value] for value in values], [str(value) for value in found]


def _indices(rows: _Rows, values: list[Any]) -> tuple[list[int], list[str]]:
    found = sorted({int(value) for value in values})
    if found != list(range(len(found))):
        shown = [SHORT.repr(value) for value in (*found[:5], found[-1])]
        raise DataError(
            f"{rows.data!r} has labels {', '.join(shown[:-1])} ({len(found)}, the last is {shown[-1]}): "
            f"class indices must run from 0 without a gap. Where they are names, make them text ('grade {shown[-1]}')."
        )
    return [int(value) for value in values], [str(value) for value in found]


def _is_none(value: Any) -> bool:
    return not isinstance(value, list) and is_missing(value)


def _is_empty(value: Any) -> bool:
    return value == [] or _is_none(value)


def _is_unknown(value: Any) -> bool:
    """Whether nothing is said of any of several labels."""
    if isinstance(value, list):
        return bool(value) and all(_is_none(part) for part in value)
    return value is None or (isinstance(value, float) and math.isnan(value)) or value == -1


def _stripped(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _is_index(value: Any, classes: int) -> bool:
    return _kind(value) in ("index", "truth") and 0 <= value < classes


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return "index"
    return "name" if isinstance(value, str) else type(value).__name__


def _plain(value: Any) -> Any:
    """A label without the types of numpy and databases; a list of one is that one, bytes are text."""
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, Decimal) and value.is_finite() and value == value.to_integral_value():
        return int(value)
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, (list, tuple)):
        return _plain(value[0]) if len(value) == 1 else [_plain(part) for part in value]
    return value


def _numbers(values: list[Any]) -> list[Any]:
    """Text as the numbers that it reads as, if all of it does: `01` is a name."""
    texts = [value for value in values if isinstance(value, str)]
    if not all(NUMBER.fullmatch(text.strip()) for text in texts):
        return values
    return [float(value) if isinstance(value, str) else value for value in values]


def _lists(values: list[Any]) -> list[Any]:
    """Text as the lists that it reads as (`[0, 1]`), if all of it does."""
    try:
        read = [value if _is_none(value) else ast.literal_eval(str(value).strip()) for value in values]
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return values
    lists = all(isinstance(value, list) or _is_none(value) for value in read)
    return [_plain(value) for value in read] if lists else values
