"""Targets that are listed in a file (CSV, JSON lines, Parquet) or lie in folders as DICOM -> splits of a data set."""

import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import datasets

from .dicom import is_dicom, read_dicom
from .errors import DataError


READERS = {".csv": "read_csv", ".tsv": "read_csv", ".jsonl": "read_json", ".parquet": "read_parquet"}

SPLIT_COLUMN = "split"


def read_table(path: Path, image_column: str, window: Sequence[float] | None = None) -> dict[str, datasets.Dataset]:
    """A file with a row an image.

    Args:
        path: `.csv`, `.tsv`, `.jsonl` or `.parquet`.
        image_column: paths, absolute or relative to the file, of pictures or DICOM; in Parquet also encoded images.
        window: of DICOM, see [`read_dicom`].

    Returns:
        Split -> rows, with all columns. The splits are those of a column `split`; without one all are `train`.

    Raises:
        DataError: the file cannot be read, or an image is not there.
    """
    import pandas as pd

    options: dict[str, dict[str, Any]] = {".jsonl": {"lines": True}, ".tsv": {"sep": "\t"}}
    suffix = path.suffix.lower()
    try:
        table = getattr(pd, READERS[suffix])(path, **options.get(suffix, {}))
    except Exception as error:  # pandas and pyarrow raise many kinds
        raise DataError(f"{str(path)!r} cannot be read as a table ({type(error).__name__}: {error}).") from error
    if image_column not in table.columns:
        raise DataError(f"{str(path)!r} has no column {image_column!r}, only {list(table.columns)}: set image_column.")
    names = table.pop(SPLIT_COLUMN).astype(str) if SPLIT_COLUMN in table.columns else pd.Series("train", table.index)
    return {
        split: _rows(
            {name: [None if _missing(value) else value for value in rows[name]] for name in rows.columns},
            image_column,
            path.parent,
            window,
        )
        for split, rows in table.groupby(names, sort=False)
    }


def read_dicom_folder(folder: Path, window: Sequence[float] | None = None) -> dict[str, datasets.Dataset]:
    """A folder `split/class/file.dcm` (or `class/file.dcm`): splits of columns `image` and `label`."""
    splits: dict[str, dict[str, list[Any]]] = {}
    for file in sorted(file for file in folder.rglob("*") if file.is_file() and is_dicom(file)):
        parts = file.relative_to(folder).parts
        if len(parts) not in (2, 3):
            raise DataError(f"{file} lies neither in class/ nor in split/class/ below {folder}.")
        columns = splits.setdefault(parts[0] if len(parts) == 3 else "train", {"image": [], "label": []})
        columns["image"].append(str(file))
        columns["label"].append(parts[-2])
    return {split: _rows(columns, "image", folder, window) for split, columns in splits.items()}


def has_dicom(folder: Path) -> bool:
    """Whether a folder of images is one of DICOM files."""
    return any(is_dicom(file) for file in _first_files(folder))


def _first_files(folder: Path) -> Iterable[Path]:
    return (file for count, file in enumerate(folder.rglob("*")) if count < 50 and file.is_file())


def _missing(value: Any) -> bool:
    """Whether a cell is empty, which pandas reads as NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _rows(columns: dict[str, list[Any]], image_column: str, folder: Path, window: Any) -> datasets.Dataset:
    images = [_encoded(value, folder, window) for value in columns[image_column]]
    rows = datasets.Dataset.from_dict({**columns, image_column: images})
    return rows.cast_column(image_column, datasets.Image())


def _encoded(value: Any, folder: Path, window: Any) -> dict[str, Any]:
    """An image as `datasets.Image` stores it: DICOM as the PNG that it becomes, other files by their path."""
    if isinstance(value, bytes):
        return {"bytes": value, "path": None}
    if isinstance(value, dict):
        return {"bytes": value.get("bytes"), "path": value.get("path")}
    file = Path(str(value)).expanduser()
    file = file if file.is_absolute() else folder / file
    if not file.is_file():
        raise DataError(f"Image {file} of the table is not there; paths are relative to {folder}.")
    if not is_dicom(file):
        return {"bytes": None, "path": str(file)}
    stream = io.BytesIO()
    read_dicom(file, window).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": str(file)}
