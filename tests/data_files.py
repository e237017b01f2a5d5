"""Images of noise, each unlike every other, and what they lie in: folders, tables, `.npz`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image


RANDOM = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    """Pixels of 8 bits."""
    return RANDOM.integers(0, 255, shape or (8, 8), dtype=np.uint8)


def picture(file: Path, pixels: np.ndarray | None = None) -> Path:
    """An image, of noise unless its pixels are given."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(8, 8, 3) if pixels is None else pixels).save(file)
    return file


def pictures(folder: Path, count: int) -> list[str]:
    """`0.png`, `1.png`, ... in a folder; their names."""
    return [picture(folder / f"{index}.png").name for index in range(count)]


def class_folders(folder: Path, count: int = 6, names: tuple[str, ...] = ("ill", "well")) -> Path:
    """A folder a class, with so many images in each."""
    for name in names:
        pictures(folder / name, count)
    return folder


def table(file: Path, **columns: Any) -> str:
    """A table in the form that its suffix says; its path as text."""
    frame = pd.DataFrame(columns)
    if file.suffix == ".parquet":
        frame.to_parquet(file)
    elif file.suffix == ".xlsx":
        frame.to_excel(file, index=False)
    elif file.suffix == ".jsonl":
        rows = [{name: values[index] for name, values in columns.items()} for index in range(len(frame))]
        file.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        frame.to_csv(file, index=False, sep="\t" if ".tsv" in file.name else ",")
    return str(file)


def npz(file: Path, train: int = 12, labels: Any = None, **more: Any) -> str:
    """MedMNIST's layout, three classes unless labels are given."""
    labels = np.arange(train)[:, None] % 3 if labels is None else labels
    np.savez(file, **{"train_images": noise(train, 8, 8), "train_labels": labels, **more})
    return str(file)


def sizes(target: Any) -> dict[str, int]:
    """Split -> number of images."""
    return {split: len(rows) for split, rows in target.items()}


def pixels(rows: Any) -> list[bytes]:
    """Of each image of a split."""
    return [np.asarray(image).tobytes() for image in rows["image"]]
