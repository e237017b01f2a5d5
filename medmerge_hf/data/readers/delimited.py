"""CSV and TSV, also compressed: text without types, in which only an empty cell is empty."""

import csv
from collections.abc import Iterator
from pathlib import Path

from ...errors import DataError
from ..listing import Listing, Reader, Request, from_columns, open_text, used_columns


SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
SEPARATORS = (",", ";", "\t")


def rows_of(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each row that is not blank, the header first; numbers are those of a spreadsheet."""
    try:
        with open_text(path) as stream:
            for number, cells in enumerate(csv.reader(stream, delimiter=separator), start=1):
                if any(cell.strip() for cell in cells):
                    yield number, cells
    except (OSError, EOFError, UnicodeError, csv.Error) as error:
        raise DataError(
            f"{str(path)!r} cannot be read as a table ({type(error).__name__}: {error}). Save it as CSV in UTF-8."
        ) from error


def columns_of(path: Path) -> list[str]:
    """Names of the columns: at the separator that finds most of them."""
    found: list[list[str]] = []
    for separator in ("\t",) if path.name.lower().endswith((".tsv", ".tsv.gz")) else SEPARATORS:
        found.append(next((cells for _, cells in rows_of(path, separator)), []))
    return max(found, key=len)


def read(request: Request) -> Listing:
    """Every row of the table.

    Raises:
        DataError: no table, a column is missing, a row has more cells than the header.
    """
    path, present = request.path, columns_of(request.path)
    used, split = used_columns(present, request, repr(path.name))
    separator = next(one for one in ("\t", *SEPARATORS) if next(rows_of(path, one))[1] == present)
    columns: dict[str, list[str]] = {name: [] for name in [*used, *([split] if split else [])]}
    places = []
    for number, cells in list(rows_of(path, separator))[1:]:
        if any(cells[len(present) :]):
            raise DataError(
                f"{path.name!r} row {number} has {len(cells)} cells, the header {len(present)}: put those that "
                f"hold a {separator!r} in quotes."
            )
        cells += [""] * (len(present) - len(cells))
        for name, values in columns.items():
            values.append(cells[present.index(name)])
        places.append(f"{path.name} row {number} ({columns[request.image_column][-1]})")
    listing = from_columns(columns, split, request, places)
    listing.untyped = True
    return listing


READER = Reader("table of text", read, SUFFIXES, columns=columns_of)
