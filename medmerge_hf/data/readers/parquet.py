"""Parquet: typed columns; names of classes that `datasets` or pandas wrote into the file are kept."""

from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import DataError
from ..listing import Listing, Reader, Request, from_columns, used_columns
from .hub import class_names, in_words


def columns_of(path: Path) -> list[str]:
    """Names of the columns.

    Raises:
        DataError: no Parquet.
    """
    try:
        return list(pq.read_schema(path).names)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{str(path)!r} cannot be read as a table ({type(error).__name__}: {error}).") from error


def read(request: Request) -> Listing:
    """Every row of the table.

    Raises:
        DataError: no Parquet, a column is missing.
    """
    path = request.path
    used, splits = used_columns(columns_of(path), request, repr(path.name))
    try:
        table = pq.ParquetFile(path).read(columns=[*used, *splits])
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{str(path)!r} cannot be read as a table ({type(error).__name__}: {error}).") from error
    images = _encoded(table, request.image_column)
    rest = {name: table[name] for name in table.column_names if images is None or name != request.image_column}
    columns: dict[str, list[Any]] = {name: column.to_pylist() for name, column in rest.items()}
    features = datasets.Features.from_arrow_schema(table.select(splits).schema)
    columns |= {name: in_words(columns[name], features[name]) for name in splits}
    names = None
    if request.label_column is not None:
        names, columns[request.label_column] = _labels(table, request.label_column)
    paths = columns.get(request.image_column, [None] * len(table))
    places = [
        f"{path.name} row {number}" + (f" ({image})" if isinstance(image, str) else "")
        for number, image in enumerate(paths, start=1)
    ]
    listing = from_columns(columns, splits, request, places, images)
    listing.names = names
    return listing


def _encoded(table: pa.Table, column: str) -> Any:
    """Images that lie in the table as `datasets` writes them, without a copy; `None` where they are something else."""
    kind = table.schema.field(column).type
    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0 or kind.get_field_index("path") < 0:
        return None
    bare = table.select([column]).rename_columns(["image"]).replace_schema_metadata(None)
    if any(part.is_null().to_pylist() != [False] * len(part) for part in pa.chunked_array(_contents(bare)).chunks):
        return None
    return datasets.Dataset(bare).cast_column("image", datasets.Image(decode=False))


def _contents(table: pa.Table) -> list[Any]:
    return [chunk.field("bytes") for chunk in table["image"].chunks] or [pa.array([], pa.binary())]


def _labels(table: pa.Table, column: str) -> tuple[list[str] | None, list[Any]]:
    """Names in the order that the file states, and the labels."""
    kind = table.schema.field(column).type
    if pa.types.is_dictionary(kind):  # a pandas category: its names that stand in a row, in its order
        values = table[column].to_pylist()
        order = table[column].unify_dictionaries().chunk(0).dictionary.to_pylist() if len(table) else []
        names = [str(name) for name in order if name in set(values)]
        if not all(isinstance(name, str) for name in order):
            return None, values
        return names, [None if value is None else names.index(value) for value in values]
    features = datasets.Features.from_arrow_schema(table.select([column]).schema)
    return class_names(features[column]), table[column].to_pylist()


READER = Reader("Parquet", read, (".parquet", ".pq"), columns=columns_of)
