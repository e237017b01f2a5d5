"""CSV and TSV, also compressed: text without types, in which only an empty cell is empty."""

import csv
from collections.abc import Iterator
from pathlib import Path

from ...errors import DataError
from ..listing import Listing, Reader, Request, from_columns, open_text, used_columns


SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
SEPARATORS = (",", ";", "\t")
# Masks in run lengths and texts of reports are longer than the 131,072 signs that `csv` allows.
csv.field_size_limit(2**31 - 1)


def rows_of(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each row that is not blank, the header first; numbers are those of a spreadsheet."""
    number = 0
    try:
        with open_text(path) as stream:
            # A quote that is opened and not closed would swallow all rows after it without a word.
            for number, cells in enumerate(csv.reader(stream, delimiter=separator, strict=True), start=1):
                if any(cell.strip() for cell in cells):
                    yield number, cells
    except csv.Error as error:
        raise DataError(
            f"{str(path)!r} row {number + 1} cannot be read ({error}): close its quotes, and double those in a text."
        ) from error
    except (OSError, EOFError, UnicodeError) as error:
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
    if len(present) < 2 and (request.label_column is not None or present != [request.image_column]):
        raise DataError(
            f"{path.name!r} has {f'one column, {present[0][:200]!r}' if present else 'no row at all'}: a table has a "
            "line of names, and columns separated by commas, semicolons or tabs (.tsv: tabs)."
        )
    used, splits = used_columns(present, request, repr(path.name))
    separator = next(one for one in ("\t", *SEPARATORS) if next(rows_of(path, one))[1] == present)
    columns: dict[str, list[str]] = {name: [] for name in [*used, *splits]}
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
    listing = from_columns(columns, splits, request, places)
    listing.untyped = True
    return listing


READER = Reader("table of text", read, SUFFIXES, columns=columns_of)
