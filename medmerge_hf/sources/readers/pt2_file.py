"""What `torch.export.save` writes: a graph, and the weights beside it. The graph is not looked at."""

import io
import json
import math
import zipfile
from typing import Any

import torch
from torch import Tensor

from ...errors import CorruptSourceError
from ..entries import choose_entry
from ..place import Place
from ..reference import LoadedSource, SourceReference
from .registry import reader


# The numbers that torch.export gives to dtypes.
DTYPES = {
    **{1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16},
    **{7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16},
    **{29: torch.float8_e4m3fn, 30: torch.float8_e5m2},
}

CONFIG = "data/weights/model_weights_config.json"


def _is_pt2(place: Place) -> bool:
    return place.has(CONFIG) or place.has("serialized_state_dict.pt")


@reader("an exported program of PyTorch (.pt2)", _is_pt2, (".pt2",))
def read_pt2(place: Place, reference: SourceReference, weights: bool = True) -> LoadedSource:
    """Read the state dict under the names that the network had before it was exported."""
    try:
        with zipfile.ZipFile(place.path) as archive:
            found = _read(archive, place, weights)
    except Exception as error:  # whatever zipfile, json and torch raise on damaged content
        raise CorruptSourceError(
            f"Source {str(place.path)!r} is an exported program of PyTorch (.pt2) whose weights cannot be read "
            f"({type(error).__name__}: {error}). Export it again, or save the network's state dict instead: "
            "torch.save(torch.export.load(path).state_dict, 'model.pth')."
        ) from error
    tensors, notes = choose_entry(found, reference.entry, str(place.path))
    return LoadedSource(reference, tensors, notes=["graph left out", *notes])


def _read(archive: zipfile.ZipFile, place: Place, weights: bool) -> dict[str, Tensor]:
    old = [name for name in place.members if name.endswith("serialized_state_dict.pt")]
    if old:  # before torch 2.8
        where = "cpu" if weights else "meta"
        return torch.load(io.BytesIO(archive.read(old[0])), map_location=where, weights_only=True)
    name = next(name for name in place.members if f"/{name}".endswith(f"/{CONFIG}"))
    folder = name.removesuffix("model_weights_config.json")
    entries = json.loads(archive.read(name))["config"]
    return {key: _tensor(archive, folder, entry, weights) for key, entry in entries.items()}


def _tensor(archive: zipfile.ZipFile, folder: str, entry: dict[str, Any], weights: bool) -> Tensor:
    meta, file = entry["tensor_meta"], f"{folder}{entry['path_name']}"
    dtype, shape = DTYPES[meta["dtype"]], [_number(size) for size in meta["sizes"]]
    strides, offset = [_number(stride) for stride in meta["strides"]], _number(meta["storage_offset"])
    size = archive.getinfo(file).file_size
    if min((*shape, *strides, offset), default=0) < 0 or math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"{file} of {size} bytes cannot hold {shape} of {dtype}")
    if not weights:
        return torch.empty(shape, dtype=dtype, device="meta")
    if entry["use_pickle"]:
        return torch.load(io.BytesIO(archive.read(file)), map_location="cpu", weights_only=True)
    content = torch.frombuffer(bytearray(archive.read(file)), dtype=dtype) if size else torch.empty(0, dtype=dtype)
    return torch.as_strided(content, shape, strides, offset)


def _number(value: Any) -> int:
    return int(value["as_int"]) if isinstance(value, dict) else int(value)
