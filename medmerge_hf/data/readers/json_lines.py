"""JSON lines: an object a row, with its own types."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..listing import Listing, Reader, Request, from_columns, open_text, used_columns


def rows_of(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number of the line and object of each row."""
    try:
        with open_text(path) as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, _object(line, path, number)
    except (OSError, EOFError, UnicodeError) as error:
        raise DataError(f"{str(path)!r} cannot be read as a table ({type(error).__name__}: {error}).") from error


def _object(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path.name!r} line {number} is no JSON ({error}): each line is an object of its own."
        ) from error
    if not isinstance(row, dict):
        raise DataError(f"{path.name!r} line {number} is a {type(row).__name__}: each line is an object (a row).")
    return row


def columns_of(path: Path) -> list[str]:
    """Names of the columns: all keys of the first row."""
    return list(next((row for _, row in rows_of(path)), {}))


def read(request: Request) -> Listing:
    """Every row of the table; a key that a row lacks is an empty cell.

    Raises:
        DataError: no JSON lines, a column is missing.
    """
    path, rows = request.path, list(rows_of(request.path))
    present = list(dict.fromkeys(key for _, row in rows for key in row))
    used, splits = used_columns(present, request, repr(path.name))
    columns = {name: [row.get(name) for _, row in rows] for name in [*used, *splits]}
    images = (value if isinstance(value, str) else "image" for value in columns[request.image_column])
    places = [f"{path.name} line {number} ({image})" for (number, _), image in zip(rows, images, strict=True)]
    return from_columns(columns, splits, request, places)


READER = Reader("JSON lines", read, (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz"), columns=columns_of)
