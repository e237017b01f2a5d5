"""Folders of tables: `train.csv` and `val.csv` beside the images that they list, shards of Parquet, `metadata.csv`."""

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path

from ...errors import DataError
from ..listing import UNLISTED, LeftOut, Listing, Reader, Request, concatenate, image_cells, tree, with_unlabelled
from ..splits import UNLABELLED, UNLABELLED_HINT, split_of, word_without_label


# The table that `datasets` reads beside images, and the column in which it names them.
METADATA, FILE_NAME = "metadata", "file_name"


def tables_of(request: Request) -> dict[Path, Reader]:
    """Tables of a folder that have the columns asked for -> their readers."""
    return {file: reader for file, reader in _all_tables(request).items() if _lists_images(file, reader, request)}


def _all_tables(request: Request) -> dict[Path, Reader]:
    return {file: reader for file in tree(request.path).companions if (reader := _reader(file))}


def _reader(file: Path) -> Reader | None:
    from . import reader_of_file

    reader = reader_of_file(file.name)
    return reader if reader and reader.columns else None


def _lists_images(file: Path, reader: Reader, request: Request) -> bool:
    try:
        present = reader.columns(file) if reader.columns else []
    except DataError:  # a companion that is no table
        return False
    asked = [request.label_column or request.group_column, _image_column(file, present, request)]
    return all(column in present for column in asked if column is not None)


def _image_column(file: Path, present: Sequence[str], request: Request) -> str:
    named = request.image_column in present or file.stem.lower() != METADATA
    return request.image_column if named else FILE_NAME


def is_table_folder(request: Request) -> bool:
    """Whether a folder has tables that list images, or nothing but tables.

    Images alone are read from tables only where there are no others, or groups are asked for.
    """
    if not request.path.is_dir():
        return False
    content = tree(request.path)
    of_use = not content.files or request.label_column is not None or request.group_column is not None
    return (of_use and bool(tables_of(request))) or (
        not content.files and any(_reader(file) for file in content.companions)
    )


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
    if request.unlabelled and request.label_column is not None:
        silent = dataclasses.replace(request, label_column=None, group_column=None)
        for file, reader in _all_tables(request).items():
            if file not in tables and _split_of_file(file.relative_to(root)) and _lists_images(file, reader, silent):
                tables[file] = reader
                more = _table(file, reader, dataclasses.replace(request, label_column=None))
                listing = with_unlabelled(listing, more, more.splits or [])
    missed = _unlisted(content.files, listing, request)
    if request.unlabelled:
        listing = with_unlabelled(listing, *_without_label(missed, request))
        missed = []
    listing.left_out += [*content.left_out, *(LeftOut(file.relative_to(root).as_posix(), UNLISTED) for file in missed)]
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


def _unlisted(files: Sequence[Path], listing: Listing, request: Request) -> list[Path]:
    """Images that no table lists.

    Raises:
        DataError: it lists none of a whole folder, which is not called unlabelled.
    """
    if not files:
        return []
    paths = (cell["path"] for cell in listing.images["image"] if cell and cell["bytes"] is None)
    listed = {os.path.realpath(path) for path in paths if path}
    missed = [file for file in files if os.path.realpath(file) not in listed]
    folders = {file.parent for file in missed} - {file.parent for file in set(files) - set(missed)}
    if request.label_column is None:
        return missed
    said = {folder: {split_of(part) for part in folder.relative_to(request.path).parts} for folder in folders}
    named = {folder for folder in folders if said[folder] & {UNLABELLED, "validation", "test"}}
    for folder in sorted(folders - named if request.unlabelled else folders):
        empty = folder.relative_to(request.path).as_posix()
        rename = ", or call it unlabelled" if request.unlabelled else ""
        also = UNLABELLED_HINT if UNLABELLED in said[folder] else rename
        raise DataError(
            f"No table of {str(request.path)!r} lists a file of the folder {empty!r}. List them, or take it out{also}."
        )
    return missed


def _without_label(files: Sequence[Path], request: Request) -> tuple[Listing, list[str]]:
    """Images that no table lists, and the words for their splits."""
    parts = [file.relative_to(request.path).parts for file in files]
    places = ["/".join(part) for part in parts]
    cells = image_cells([str(file) for file in files], Path.cwd(), places)
    return Listing(cells, [None] * len(files), places), [word_without_label(part[:-1]) for part in parts]


READER = Reader("folder of tables", read, folder=is_table_folder, rank=1)
