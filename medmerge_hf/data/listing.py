"""What a reader is asked, and what it hands over: every row as its owner has it, and every file that is no row."""

import dataclasses
import gzip
import io
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import datasets
import numpy as np

from ..errors import DataError
from .splits import SPLIT_COLUMN, SPLIT_COLUMNS, split_of


# Files that stand beside images and are none.
COMPANIONS = frozenset(
    (
        *(".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".pq", ".xlsx", ".xlsm", ".xls"),
        *(".txt", ".md", ".rst", ".xml", ".yaml", ".yml", ".html", ".pdf", ".log", ".py", ".ipynb", ".sh"),
        *(".db", ".ini", ".md5", ".sha256", ".doc", ".docx", ".cff", ".bib"),
    )
)
COMPANION_NAMES = frozenset(("license", "licence", "readme", "makefile", "changelog", "copying", "notice", "md5sums"))
HIDDEN = "__MACOSX"
# Why an image is left out that lies beside tables.
UNLISTED = "listed in no table"


class LeftOut(NamedTuple):
    """Something that lies there and is not used.

    Attributes:
        what: file or row, as its owner finds it.
        reason: why.
        expected: whether it is no image of the target anyway (hidden, a companion): reported, never refused.
    """

    what: str
    reason: str
    expected: bool = False


@dataclasses.dataclass(frozen=True)
class Request:
    """What `load_target` was asked to read.

    Attributes:
        data: path or Hub id, as the user wrote it.
        path: of the file or folder; of a Hub data set it is not there.
        image_column: column of images.
        label_column: column of labels; `None` reads images alone, whatever else is said of them.
        group_column: column of patients, if any.
        name: configuration of a Hub data set.
        revision: of a Hub data set.
        unlabelled: whether images without a label are read.
    """

    data: str
    path: Path
    image_column: str = "image"
    label_column: str | None = "label"
    group_column: str | None = None
    name: str | None = None
    revision: str | None = None
    unlabelled: bool = False


@dataclasses.dataclass
class Listing:
    """Rows of a target, in the owner's words.

    Attributes:
        images: a column `image` of undecoded `datasets.Image` cells; arrays are kept as the bytes of an `.npy`.
        labels: as they were found, `None` where there is none; with `names`, indices (or lists of indices) into them.
        places: how the owner finds each row.
        splits: the owner's word for each row's split; `None` where nothing is said of splits.
        groups: patient of each row, where asked for.
        names: of the classes in their order, where the form states it.
        untyped: whether text that reads as numbers means numbers (CSV has no types).
        left_out: what lies there and is no row.
    """

    images: Any
    labels: list[Any]
    places: list[str]
    splits: list[Any] | None = None
    groups: list[Any] | None = None
    names: list[str] | None = None
    untyped: bool = False
    left_out: list[LeftOut] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Reader:
    """One form of data.

    Attributes:
        form: what its owner calls it.
        read: request -> listing.
        suffixes: of the files that it reads.
        folder: whether it reads this folder; readers are asked by `rank`, the lowest first.
        columns: of a table, the names of its columns.
        rank: place in the order.
    """

    form: str
    read: Callable[[Request], Listing]
    suffixes: tuple[str, ...] = ()
    folder: Callable[[Request], bool] | None = None
    columns: Callable[[Path], list[str]] | None = None
    rank: int = 0


def open_text(path: Path) -> IO[str]:
    """A file of text in UTF-8, decompressed where its name ends in `.gz`; ends of lines are kept."""
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def is_missing(value: Any) -> bool:
    """Whether a cell is empty: nothing, NaN of a float column, blank text.

    Example:
        >>> [is_missing(value) for value in (None, float("nan"), " ", "NA", "None", "nan", 0)]
        [True, True, True, False, False, False, False]
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    return isinstance(value, str) and not value.strip()


def used_columns(present: Sequence[str], request: Request, where: str) -> tuple[list[str], list[str]]:
    """Which columns of a table are used: those of the request, and those that may say the splits.

    Where images alone are read, groups are where they are told.

    Raises:
        DataError: a column that was asked for is missing, or stands twice.
    """
    asked = {"image": request.image_column, "label": request.label_column, "group": request.group_column}
    if request.label_column is None and request.group_column not in present:
        asked["group"] = None
    for option, column in asked.items():
        if column is not None and present.count(column) != 1:
            if column in present:
                raise DataError(f"{where} has {present.count(column)} columns {column!r}: rename all but one.")
            if request.label_column is None:
                raise DataError(
                    f"{where} has no column {column!r}, only {list(present)}: give its column of images that name, "
                    "which the images with labels have."
                )
            raise DataError(
                f"{where} has no column {column!r}, only {list(present)}: set {option}_column. Images in a folder get "
                "their label from the class folder that they lie in, and have no group."
            )
    used = [column for column in asked.values() if column is not None]
    free = {_plain_name(column): column for column in present if column not in used}
    return used, [free[name] for name in SPLIT_COLUMNS if name in free]


def refuse_columns(request: Request, why: str) -> None:
    """Columns that were asked for in a form that has none.

    Raises:
        DataError: a column of the request is not the usual one.
    """
    usual = Request(request.data, request.path)
    for option in ("image_column", "label_column", "group_column"):
        if (column := getattr(request, option)) != getattr(usual, option):
            raise DataError(f"{request.data!r} has no column {column!r} ({option}): {why}")


def _plain_name(column: str) -> str:
    return column.strip().lower().replace(" ", "_").replace("-", "_")


def stated_splits(columns: Mapping[str, Sequence[Any]]) -> list[Any] | None:
    """The owner's splits, by the first column that says them.

    One called `split` always does, others if a value says training or all are words for splits.
    """
    for column, values in columns.items():
        known = [split_of(value) for value in values]
        if _plain_name(column) == SPLIT_COLUMN or "train" in known or all(known):
            return list(values)
    return None


def from_columns(
    columns: Mapping[str, list[Any]],
    splits: Sequence[str],
    request: Request,
    places: list[str],
    images: Any = None,
) -> Listing:
    """A listing of a table.

    Args:
        columns: used columns and those of splits -> cells.
        splits: columns that may say the splits.
        request: what was asked; paths are relative to its file.
        places: of the rows.
        images: cells of images where they need no reading, otherwise those of the image column.
    """
    if images is None:
        folder = request.path if request.path.is_dir() else request.path.parent
        images = image_cells(columns[request.image_column], folder, places)
    groups = None if request.group_column is None else columns.get(request.group_column)
    labels = [None] * len(places) if request.label_column is None else columns[request.label_column]
    stated = stated_splits({name: columns[name] for name in splits})
    return Listing(images, labels, places, stated, groups)


def image_cells(values: Sequence[Any], folder: Path, places: Sequence[str]) -> Any:
    """Images as `datasets` keeps them undecoded: paths (relative to a folder), encoded bytes, arrays.

    Raises:
        DataError: lists whose rows are of different lengths; names that are no text.
    """
    cells: dict[str, list[Any]] = {"image": []}
    for value, place in zip(values, places, strict=True):
        try:
            cells["image"].append(_cell(value, folder))
            if isinstance(value, str):
                value.encode()  # Arrow says of other text only that it cannot take it
        except UnicodeEncodeError as error:
            raise DataError(f"{place!r} has a name that is no UTF-8: rename it.") from error
        except (ValueError, TypeError, OverflowError) as error:
            raise DataError(f"{place}: its image is no path and no array ({error}).") from error
    return datasets.Dataset.from_dict(cells, datasets.Features({"image": datasets.Image(decode=False)}))


def array_bytes(array: np.ndarray) -> bytes:
    """An array of pixels as the bytes of an `.npy`."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def _cell(value: Any, folder: Path) -> dict[str, Any] | None:
    if isinstance(value, dict):
        content, path = value.get("bytes"), value.get("path")
        return {"bytes": content, "path": None} if content is not None else _cell(path, folder)
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": bytes(value), "path": None}
    if isinstance(value, (list, np.ndarray)):
        return {"bytes": array_bytes(np.asarray(value)), "path": None}
    return None if is_missing(value) else {"bytes": None, "path": str(absolute(str(value), folder))}


def absolute(name: str, folder: Path) -> Path:
    """A path of a table; `~` is the home folder, what is relative begins at the table's folder."""
    try:
        path = Path(name).expanduser()
    except RuntimeError:  # a user that does not exist: then it is a file's name
        path = Path(name)
    return Path(os.path.abspath(path if path.is_absolute() else folder / path))


def concatenate(listings: Sequence[Listing], where: str) -> Listing:
    """Several listings as one.

    Raises:
        DataError: their labels are of different types.
    """
    first = listings[0]
    for other in listings[1:]:
        if other.names != first.names:
            raise DataError(f"{where}: {other.places[:1]} has the classes {other.names}, others have {first.names}.")
    stated = [listing.splits is not None for listing in listings]
    if any(stated) and not all(stated):
        silent = listings[stated.index(False)].places[:1]
        raise DataError(f"{where}: {silent} is of no split, while others name one. Name all of them, or none.")
    return Listing(
        datasets.concatenate_datasets([listing.images for listing in listings]),
        [label for listing in listings for label in listing.labels],
        [place for listing in listings for place in listing.places],
        [split for listing in listings for split in listing.splits or ()] if all(stated) else None,
        None if first.groups is None else [group for listing in listings for group in listing.groups or ()],
        first.names,
        all(listing.untyped for listing in listings),
        [one for listing in listings for one in listing.left_out],
    )


def with_unlabelled(listing: Listing, more: Listing, words: Sequence[Any]) -> Listing:
    """A listing, and more rows whose labels are not read.

    Args:
        listing: rows with labels, all for training where they say nothing of splits.
        more: the other rows.
        words: for the split of each of them.
    """
    count = len(more.places)
    return dataclasses.replace(
        listing,
        images=datasets.concatenate_datasets([listing.images, more.images]),
        labels=[*listing.labels, *[None] * count],
        places=[*listing.places, *more.places],
        splits=[*(["train"] * len(listing.places) if listing.splits is None else listing.splits), *words],
        groups=None if listing.groups is None else [*listing.groups, *(more.groups or [None] * count)],
        left_out=[*listing.left_out, *more.left_out],
    )


class Tree(NamedTuple):
    """What lies in a folder: files that may be images, companions, folders (all but hidden ones)."""

    files: list[Path]
    companions: list[Path]
    folders: list[Path]
    left_out: list[LeftOut]


def tree(root: Path) -> Tree:
    """Walk through a folder. Links are followed, hidden files and folders are noted and not looked into.

    Raises:
        DataError: a folder cannot be read, or a link leads back above itself.
    """
    found = Tree([], [], [], [])
    for path, hidden in _walk(root, (os.path.realpath(root),), hidden=False):
        if hidden:
            found.left_out.append(LeftOut(path.relative_to(root).as_posix(), "hidden", True))
        elif path.is_dir():
            found.folders.append(path)
        elif is_companion(path):
            found.companions.append(path)
        else:
            found.files.append(path)
    return found


def is_companion(path: Path) -> bool:
    """Whether a file is no image by its name: a table, a text, a thumbnail cache."""
    name = path.name.lower().removesuffix(".gz")  # a gzipped volume is an image that no reader takes
    return os.path.splitext(name)[1] in COMPANIONS or name in COMPANION_NAMES


def _walk(folder: Path, above: tuple[str, ...], hidden: bool) -> Iterator[tuple[Path, bool]]:
    try:
        entries = sorted(os.listdir(folder))
    except OSError as error:
        raise DataError(f"{str(folder)!r} cannot be looked into ({error}).") from error
    for path in (folder / entry for entry in entries):
        concealed = hidden or path.name.startswith(".") or path.name == HIDDEN
        if not path.is_dir():
            yield path, concealed
        elif (real := os.path.realpath(path)) not in above:
            if not concealed:
                yield path, False
            yield from _walk(path, (*above, real), concealed)
        elif not concealed:
            raise DataError(f"{str(path)!r} is a link back to {real}, in which it lies itself. Remove it.")
