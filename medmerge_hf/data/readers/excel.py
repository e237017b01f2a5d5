"""Excel workbooks: the one sheet that has the column of images."""

from pathlib import Path
from typing import Any

from ...errors import DataError
from ..listing import LeftOut, Listing, Reader, Request, from_columns, used_columns


Rows = list[tuple[int, tuple[Any, ...]]]


def sheets_of(path: Path) -> dict[str, Rows]:
    """Number and cells of each row that is not blank, of each sheet that has any.

    Raises:
        DataError: no workbook, or openpyxl is missing.
    """
    try:
        import openpyxl
    except ImportError as error:
        raise DataError(f'{path} is .xlsx, which needs openpyxl: pip install "medmerge_hf[tables]".') from error
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        found = {
            sheet.title: [
                (number, cells)
                for number, cells in enumerate(sheet.iter_rows(values_only=True), start=1)
                if any(cell is not None for cell in cells)
            ]
            for sheet in book.worksheets
        }
        book.close()
    except Exception as error:  # zipfile, xml and openpyxl raise many kinds
        raise DataError(f"{str(path)!r} cannot be read as .xlsx ({type(error).__name__}: {error}).") from error
    return {title: rows for title, rows in found.items() if rows}


def header(rows: Rows) -> list[str]:
    """Names of the columns of a sheet."""
    return ["" if cell is None else str(cell) for cell in rows[0][1]]


def columns_of(path: Path) -> list[str]:
    """Names of the columns of all sheets."""
    return [name for rows in sheets_of(path).values() for name in header(rows)]


def read(request: Request) -> Listing:
    """Every row of the sheet.

    Raises:
        DataError: no workbook, no or several sheets with images, a column is missing.
    """
    path, sheets = request.path, sheets_of(request.path)
    images = [title for title, rows in sheets.items() if request.image_column in header(rows)]
    if len(images) > 1:
        raise DataError(f"{path.name!r} has {len(images)} sheets with {request.image_column!r}, {images}: keep one.")
    title = (images or list(sheets) or [""])[0]
    rows = sheets.get(title, [(1, ())])
    present = header(rows)
    used, splits = used_columns(present, request, f"{path.name!r} sheet {title!r}")
    columns = {name: [cells[present.index(name)] for _, cells in rows[1:]] for name in [*used, *splits]}
    if request.label_column is not None:  # as in any table of text
        columns[request.label_column] = ["" if cell is None else cell for cell in columns[request.label_column]]
    names = columns[request.image_column]
    places = [f"{path.name} row {number} ({name})" for (number, _), name in zip(rows[1:], names, strict=True)]
    listing = from_columns(columns, splits, request, places)
    listing.untyped = True
    others = [other for other in sheets if other != title]
    listing.left_out = [LeftOut(f"{path.name} sheet {other}", "sheet without images", True) for other in others]
    return listing


READER = Reader("Excel workbook", read, (".xlsx", ".xlsm"), columns=columns_of)
