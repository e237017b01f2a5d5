"""Folders that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` made."""

from pathlib import Path

import datasets

from ...errors import DataError
from ..listing import LeftOut, Listing, Reader, Request, tree
from .hub import from_datasets


MARKS = ("dataset_dict.json", "state.json")


def is_saved(request: Request) -> bool:
    """Whether a folder is one of `save_to_disk`."""
    return request.path.is_dir() and any((request.path / mark).is_file() for mark in MARKS)


def read(request: Request) -> Listing:
    """Every row of every split.

    Raises:
        DataError: the folder cannot be loaded.
    """
    try:
        found = datasets.load_from_disk(str(request.path))
    except Exception as error:  # pyarrow, json and datasets raise many kinds
        raise DataError(f"{request.data!r} cannot be loaded ({type(error).__name__}: {error}).") from error
    splits = found if isinstance(found, datasets.DatasetDict) else {"train": found}
    listing = from_datasets(splits, request)
    listing.left_out = _unused(request.path, found)
    return listing


def _unused(folder: Path, found: datasets.Dataset | datasets.DatasetDict) -> list[LeftOut]:
    """Files of no split: a split that `dataset_dict.json` does not name, for example."""
    parts = [folder / name for name in found] if isinstance(found, datasets.DatasetDict) else [folder]
    content = tree(folder)
    strange = [file for file in content.files if file.parent not in parts]
    return [
        *content.left_out,
        *(LeftOut(file.relative_to(folder).as_posix(), "of no split of dataset_dict.json") for file in strange),
    ]


READER = Reader("folder of save_to_disk", read, folder=is_saved)
