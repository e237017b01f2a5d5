"""Folders of tables: `train.csv` and `val.csv` beside the images that they list, shards of Parquet, `metadata.csv`."""

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path

from ...errors import DataError
from ..listing import LeftOut, Listing, Reader, Request, concatenate, tree
from ..splits import split_of


# The table that `datasets` reads beside images, and the column in which it names them.
METADATA, FILE_NAME = "metadata", "file_name"


def tables_of(request: Request) -> dict[Path, Reader]:
    """Tables of a folder that have the columns asked for -> their readers."""
    found = {file: reader for file in tree(request.path).companions if (reader := _reader(file))}
    return {file: reader for file, reader in found.items() if _lists_images(file, reader, request)}


def _reader(file: Path) -> Reader | None:
    from . import reader_of_file

    reader = reader_of_file(file.name)
    return reader if reader and reader.columns else None


def _lists_images(file: Path, reader: Reader, request: Request) -> bool:
    try:
        present = reader.columns(file) if reader.columns else []
    except DataError:  # a companion that is no table
        return False
    return request.label_column in present and _image_column(file, present, request) in present


def _image_column(file: Path, present: Sequence[str], request: Request) -> str:
    named = request.image_column in present or file.stem.lower() != METADATA
    return request.image_column if named else FILE_NAME


def is_table_folder(request: Request) -> bool:
    """Whether a folder has tables that list images, or nothing but tables."""
    if not request.path.is_dir():
        return False
    content = tree(request.path)
    return bool(tables_of(request)) or (not content.files and any(_reader(file) for file in content.companions))


def read(request: Request) -> Listing:
    """Every row of every table; a table without a column of splits is of the split that it is named after.

    Raises:
        DataError: no table has the columns, or a folder of images is listed in none.
    """
    root, content, tables = request.path, tree(request.path), tables_of(request)
    if not tables:  # the reader of the first says which column is missing
        first, reader = next((file, reader) for file in content.companions if (reader := _reader(file)))
        return reader.read(dataclasses.replace(request, path=first))
    listing = concatenate([_table(file, reader, request) for file, reader in tables.items()], request.data)
    listing.left_out += [*content.left_out, *_unlisted(content.files, listing, root)]
    others = [file for file in content.companions if file not in tables]
    listing.left_out += [LeftOut(file.relative_to(root).as_posix(), "lists no images", True) for file in others]
    return listing


def _table(file: Path, reader: Reader, request: Request) -> Listing:
    present = reader.columns(file) if reader.columns else []
    listing = reader.read(dataclasses.replace(request, path=file, image_column=_image_column(file, present, request)))
    place = file.relative_to(request.path)
    listing.places = [f"{place.parent.as_posix()}/{row}".removeprefix("./") for row in listing.places]
    if listing.splits is None and (split := _split_of_file(place)):
        listing.splits = [split] * len(listing.places)
    return listing


def _split_of_file(place: Path) -> str | None:
    """The split that a table is named after (`val_labels.csv`, `train-00000-of-00002.parquet`), or its folder is."""
    words = [*place.parts[:-1], *re.split(r"[^A-Za-z]+", place.name.split(".")[0])]
    found = {split for word in words if (split := split_of(word))}
    return found.pop() if len(found) == 1 else None


def _unlisted(files: Sequence[Path], listing: Listing, root: Path) -> list[LeftOut]:
    """Images that no table lists."""
    if not files:
        return []
    paths = (cell["path"] for cell in listing.images["image"] if cell and cell["bytes"] is None)
    listed = {os.path.realpath(path) for path in paths if path}
    missed = [file for file in files if os.path.realpath(file) not in listed]
    folders = {file.parent for file in missed} - {file.parent for file in files if file not in missed}
    if folders:
        empty = sorted(folders)[0].relative_to(root).as_posix()
        raise DataError(f"No table of {str(root)!r} lists a file of the folder {empty!r}. List them, or take it out.")
    return [LeftOut(file.relative_to(root).as_posix(), "listed in no table") for file in missed]


READER = Reader("folder of tables", read, folder=is_table_folder, rank=1)
