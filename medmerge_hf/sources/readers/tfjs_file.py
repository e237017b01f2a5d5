"""TensorFlow.js: `model.json` of a layers model, and the files of numbers beside it. Names are as of Keras' files."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import CorruptSourceError
from ..entries import choose_entry
from ..place import Place, read_json
from ..reference import LoadedSource, SourceReference
from .keras_layers import Array, keras_source, torch_names
from .registry import reader


NUMBERS = {"float32": "<f4", "int32": "<i4", "bool": "|u1", "float16": "<f2", "uint8": "|u1", "uint16": "<u2"}


def _is_tfjs(place: Place) -> bool:
    words = (b'"weightsManifest"', b'"modelTopology"', b'"layers-model"', b'"graph-model"')
    return place.start.lstrip()[:1] == b"{" and any(word in place.start for word in words)


@reader("TensorFlow.js", _is_tfjs)
def read_tfjs(place: Place, reference: SourceReference, weights: bool = True) -> LoadedSource:
    """Read the layers' weights; rounded ones (`--quantize_uint8`) as the numbers that they stand for, with a note."""
    stated = read_json(place.path)
    if stated.get("format") == "graph-model":
        raise CorruptSourceError(
            f"Source {str(place.path)!r} is a graph model of TensorFlow.js: its layers have lost their names and "
            "BatchNorms. Name the Keras file that it was converted from, or convert that to a layers model: "
            "`tensorflowjs_converter --input_format=keras model.h5 folder`."
        )
    try:
        entries = list(_entries(stated, place.path))
        found = dict(_tensors(entries, weights))
    except CorruptSourceError:
        raise
    except Exception as error:  # whatever a damaged description leads to
        raise CorruptSourceError(
            f"Source {str(place.path)!r} is a TensorFlow.js model whose weights cannot be read "
            f"({type(error).__name__}: {error}). Download it again, with every file that it names."
        ) from error
    rounded = sum("scale" in (entry.get("quantization") or {}) for entry, _ in entries)
    tensors, notes = choose_entry(found, reference.entry, str(place.path))
    notes += [f"{rounded} tensors rounded to 8 or 16 bits, scales multiplied in"] if rounded else []
    topology = stated.get("modelTopology")
    return keras_source(reference, tensors, notes, topology)


def parts_of(file: Path) -> list[Path]:
    """The files of numbers that a `model.json` names.

    Raises:
        CorruptSourceError: one is not there, or does not lie beside it.
    """
    found = []
    for group in _groups(read_json(file), file):
        for name in group["paths"]:
            if not isinstance(name, str) or PurePosixPath(name).name != name or "\\" in name or "\0" in name:
                raise CorruptSourceError(f"Source {str(file)!r} names {str(name)[:80]!r}, which is not beside it.")
            if not (file.parent / name).is_file():
                raise CorruptSourceError(f"Source {str(file)!r}: its file {name!r} is not there. Download it too.")
            found.append(file.parent / name)
    return found


def _groups(stated: Mapping[str, Any], file: Path) -> list[Any]:
    groups = stated.get("weightsManifest") or []
    parts = [group.get(key) for group in groups for key in ("paths", "weights")] if _dicts(groups) else [None]
    if not all(isinstance(part, list) for part in parts):
        raise CorruptSourceError(
            f"Source {str(file)!r} is a TensorFlow.js model without a weightsManifest: a network and no weights. "
            "Export it again with its weights."
        )
    return list(groups)


def _dicts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _entries(stated: Mapping[str, Any], file: Path) -> Iterator[tuple[dict[str, Any], memoryview]]:
    """What the manifest says of each array, and its bytes."""
    paths = iter(parts_of(file))
    for group in _groups(stated, file):
        content = memoryview(b"".join(next(paths).read_bytes() for _ in group["paths"]))
        start = 0
        for entry in group["weights"]:
            end = start + _bytes(entry)
            if end > len(content):
                raise ValueError(f"{entry['name']} ends at byte {end} of {len(content)}")
            yield entry, content[start:end]
            start = end
        if start != len(content):
            raise ValueError(f"it speaks of {start} bytes of weights, its files hold {len(content)}")


def _bytes(entry: Mapping[str, Any]) -> int:
    shape = entry["shape"]
    if any(not isinstance(size, int) or size < 0 for size in shape):
        raise ValueError(f"{entry['name']} has the shape {shape}")
    return math.prod(shape) * np.dtype(_stored(entry)).itemsize


def _stored(entry: Mapping[str, Any]) -> str:
    return NUMBERS[(entry.get("quantization") or entry)["dtype"]]


def _tensors(entries: list[tuple[dict[str, Any], memoryview]], weights: bool) -> Iterator[tuple[str, Tensor]]:
    arrays = [Array.of_path(str(entry["name"])) for entry, _ in entries]
    names = torch_names(arrays)
    if len(names) < len(arrays):
        raise ValueError("a name stands twice in it")
    for array, (entry, content) in zip(arrays, entries, strict=True):
        tensor = torch.from_numpy(_numbers(entry, content))
        tensor = tensor if weights or array.leaf in ("mean", "variance") else tensor.to("meta")
        yield names[array], array.as_torch(tensor)


def _numbers(entry: Mapping[str, Any], content: memoryview) -> Any:
    values = np.frombuffer(content, _stored(entry)).reshape(entry["shape"])
    rounded = entry.get("quantization")
    if rounded is None:
        return values.copy()
    scale, least = (rounded["scale"], rounded["min"]) if "scale" in rounded else (1.0, 0.0)
    return (values.astype(np.float64) * float(scale) + float(least)).astype(np.float32)
