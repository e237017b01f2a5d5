"""Data sets of the `datasets` library: on the Hub."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import HfApi, snapshot_download

from ...errors import DataError
from ..listing import LeftOut, Listing, Reader, Request, concatenate, from_columns, used_columns, with_unlabelled
from ..splits import unlabelled_hint


logger = logging.getLogger(__name__)

# Of these, `datasets` unpacks what lies in them.
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".xz", ".bz2", ".7z", ".rar")


def class_names(feature: Any) -> list[str] | None:
    """Names of a `ClassLabel`, or of a list of them; `None` of any other feature."""
    inner = getattr(feature, "feature", feature)
    return list(inner.names) if isinstance(inner, datasets.ClassLabel) else None


def in_words(values: list[Any], feature: Any) -> list[Any]:
    """Cells of a column of splits: names where it is a `ClassLabel`."""
    if not isinstance(feature, datasets.ClassLabel):
        return values
    return [value if value is None else feature.int2str(value) for value in values]


def from_datasets(splits: Mapping[str, datasets.Dataset], request: Request) -> Listing:
    """Every row of every split; of one split, a column may say the splits.

    Raises:
        DataError: a column is missing, a split is empty or of another type than the others.
    """
    silent = [name for name, rows in splits.items() if request.label_column not in rows.column_names]
    if len(silent) == len(splits):  # where no split has the column, it is called otherwise
        silent = []
    if silent and not request.unlabelled:
        raise DataError(
            f"{request.data!r} ({silent[0]}) has no column {request.label_column!r}, which other splits have: take "
            f"the split out{unlabelled_hint(silent)}."
        )
    alone = len(splits) == 1
    found = [_split(name, rows, request, alone) for name, rows in splits.items() if name not in silent]
    listing = concatenate(found, request.data)
    for name in silent:
        more = _split(name, splits[name], dataclasses.replace(request, label_column=None), alone)
        listing = with_unlabelled(listing, more, more.splits or [])
    return listing


def _split(name: str, rows: datasets.Dataset, request: Request, alone: bool) -> Listing:
    where = f"{request.data!r} ({name})"
    rows = _with_image_column(rows, request)
    used, splits = used_columns(rows.column_names, request, where)
    if not len(rows):
        raise DataError(f"{where} is an empty split: take it out.")
    splits = splits if alone else []
    wanted = [*used, *splits]
    images = None
    if isinstance(rows.features[request.image_column], datasets.Image):
        images = rows.select_columns([request.image_column]).rename_columns({request.image_column: "image"})
        images = images.cast_column("image", datasets.Image(decode=False))
        wanted.remove(request.image_column)
    plain = rows.select_columns(wanted).with_format(None)
    columns = {one: list(plain[one]) for one in wanted}
    columns |= {one: in_words(columns[one], rows.features[one]) for one in splits}
    places = [f"{name} row {number}" for number in range(1, len(rows) + 1)]
    listing = from_columns(columns, splits, request, places, images)
    listing.splits = listing.splits if splits else [name] * len(rows)
    if request.label_column is not None:
        listing.names = class_names(rows.features[request.label_column])
    return listing


def _with_image_column(rows: datasets.Dataset, request: Request) -> datasets.Dataset:
    """Of images alone, the one column that holds some may be called as it likes: on the Hub nobody can rename it."""
    found = [name for name, feature in rows.features.items() if isinstance(feature, datasets.Image)]
    if request.label_column is None and request.image_column not in rows.column_names and len(found) == 1:
        return rows.rename_column(found[0], request.image_column)
    return rows


def read(request: Request) -> Listing:
    """Every row of a data set on the Hub; a repository of bare images is read as the folder that it is.

    Raises:
        DataError: there is no such data set, or it cannot be loaded.
    """
    try:
        builder = datasets.load_dataset_builder(request.data, request.name, revision=request.revision)
        if _is_image_folder(builder):
            folder = snapshot_download(request.data, repo_type="dataset", revision=request.revision)
        else:
            listing = from_datasets(_splits(builder), request)
            listing.left_out += _unused(builder, request)
            return listing
    except DataError:
        raise
    except Exception as error:  # the Hub, the cache and the builders raise many kinds
        raise DataError(
            f"{request.data!r} is no path here, and cannot be loaded from the Hub ({type(error).__name__}: {error})."
        ) from error
    from . import find_reader

    local = dataclasses.replace(request, path=Path(folder))
    return find_reader(local).read(local)


def _splits(builder: Any) -> datasets.DatasetDict:
    builder.download_and_prepare()
    return builder.as_dataset()


def _unused(builder: Any, request: Request) -> list[LeftOut]:
    """Files of which `datasets` makes no split: of other configurations, or of no name that it knows."""
    try:
        files = HfApi().list_repo_files(request.data, repo_type="dataset", revision=request.revision)
    except Exception as error:  # what was read may come from the cache
        logger.warning("%s: what else lies there is not known (%s).", request.data, " ".join(str(error).split()))
        return []
    used = [str(file) for split in (builder.config.data_files or {}).values() for file in split]
    reason = f"of no split that datasets reads for configuration {builder.config.name!r}"
    return [LeftOut(file, reason, True) for file in files if not any(path.endswith(f"/{file}") for path in used)]


def _is_image_folder(builder: Any) -> bool:
    """Whether `datasets` would read class folders, of which it drops files and folders by their names."""
    files = builder.config.data_files or {}
    packed = any(str(file).lower().endswith(ARCHIVES) for split in files.values() for file in split)
    return type(builder).__module__.rsplit(".", 1)[-1] == "imagefolder" and not packed


READER = Reader("data set on the Hub", read, folder=lambda request: not request.path.exists())
