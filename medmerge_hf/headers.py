"""What a weights file says of itself before its weights are read: the safetensors header, a shard index, a zip's
table of contents. Everything in them is checked here, since nothing else stands between a file and memory."""

import dataclasses
import json
import math
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from .errors import CorruptSourceError


HEADER_LIMIT = 100_000_000  # bytes; the format's own
# How much larger than the file its content may become. torch writes its zips uncompressed.
ZIP_FACTOR = 4
DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "BOOL": torch.bool, "U8": torch.uint8},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "C64": torch.complex64},
    **{"U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64},
}


@dataclasses.dataclass(frozen=True)
class Header:
    """A safetensors header.

    Args:
        tensors: name -> empty tensor of its shape and dtype, on the `meta` device.
        metadata: free text of whoever wrote the file.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_header(file: Path) -> Header:
    """Read and check the header of a safetensors file.

    Args:
        file: the file; its weights are not read.

    Returns:
        Shapes, dtypes and metadata.

    Raises:
        CorruptSourceError: a length, an offset, a name or a shape that the format does not allow.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, HEADER_LIMIT):
            raise corrupt(file, f"its header would be {length} bytes long")
        text = stream.read(length)
    return check_header(str(file), parse_json(text, str(file)), size - 8 - length)


def parse_json(text: bytes, name: str) -> dict[str, Any]:
    """A JSON object in which no name stands twice.

    Raises:
        CorruptSourceError: anything else.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            twice = next(key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1)
            raise ValueError(f"{twice!r} stands twice")
        return found

    try:
        found = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise corrupt(name, f"its header is no JSON with unique names ({error})") from error
    if not isinstance(found, dict):
        raise corrupt(name, "its header is no JSON object")
    return found


def check_header(name: str, header: Mapping[str, Any], size: int) -> Header:
    """Check the entries of a safetensors header: known dtypes, whole shapes, offsets that tile the file.

    Args:
        name: how errors call the file.
        header: the JSON object.
        size: bytes that follow it.

    Returns:
        Shapes, dtypes and metadata.

    Raises:
        CorruptSourceError: an entry that the format does not allow.

    Example:
        >>> header = {"w": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}}
        >>> check_header("a.safetensors", header, 12).tensors["w"].shape
        torch.Size([2, 3])
    """
    metadata = header.get("__metadata__") or {}
    if not isinstance(metadata, dict):
        raise corrupt(name, "its __metadata__ is no JSON object")
    tensors, spans = {}, []
    for key, entry in header.items():
        if key == "__metadata__":
            continue
        try:
            dtype, shape, (begin, end) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        except (KeyError, TypeError, ValueError) as error:
            raise corrupt(name, f"its header describes {key!r} as {str(entry)[:80]}") from error
        if not all(type(number) is int and 0 <= number < 2**63 for number in (*shape, begin, end)):
            raise corrupt(name, f"its header gives {key!r} the shape {shape} and the bytes {begin} to {end}")
        if math.prod(shape) * dtype.itemsize != end - begin or end > size:
            raise corrupt(
                name,
                f"{key!r} of shape {shape} should lie in bytes {begin} to {end} of {size}, which does not fit",
            )
        spans.append((begin, end, key))
        tensors[key] = torch.empty(shape, dtype=dtype, device="meta")
    _check_spans(name, spans, size)
    return Header(tensors, {str(key): str(value) for key, value in metadata.items()})


def _check_spans(name: str, spans: Iterable[tuple[int, int, str]], size: int) -> None:
    reached, last = 0, "the header"
    for begin, end, key in sorted(spans):
        if begin != reached:
            what = "overlaps with" if begin < reached else "leaves a gap after"
            raise corrupt(name, f"{key!r} {what} {last!r} (byte {begin} instead of {reached})")
        reached, last = end, key
    if reached != size:
        raise corrupt(name, f"it holds {size} bytes of weights, its header tells of {reached}")


def read_index(file: Path) -> list[Path]:
    """The shards that an `*.index.json` names, beside it.

    Args:
        file: the index.

    Returns:
        Their paths, each once.

    Raises:
        CorruptSourceError: no index, a shard that is not there, or a name that leads out of the folder.
    """
    shards = parse_json(file.read_bytes(), str(file)).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise corrupt(file, "it names no weight_map")
    found = []
    for shard in dict.fromkeys(shards.values()):
        if not isinstance(shard, str) or PurePosixPath(shard).name != shard or "\\" in shard or "\0" in shard:
            raise corrupt(file, f"it names the shard {str(shard)[:80]!r}, which does not lie beside it")
        if not (file.parent / shard).is_file():
            raise corrupt(file, f"its shard {shard!r} is not there")
        found.append(file.parent / shard)
    return found


def check_zip(file: Path) -> None:
    """Refuse a zip (the container of torch's pickles) that would fill the memory.

    Args:
        file: any file; one that is no zip passes.

    Raises:
        CorruptSourceError: its content is many times larger than itself.
    """
    if not zipfile.is_zipfile(file):
        return
    try:
        with zipfile.ZipFile(file) as archive:
            content = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise corrupt(file, f"its table of contents cannot be read ({error})") from error
    size = file.stat().st_size
    if content > ZIP_FACTOR * size + 1_000_000:
        raise corrupt(file, f"it would unpack to {content} bytes from {size}: a zip bomb, or no checkpoint")


def corrupt(file: "Path | str", reason: str) -> CorruptSourceError:
    """The error for a file whose description of itself is wrong."""
    name = str(file)
    kind = "safetensors" if ".safetensors" in name else "torch"
    return CorruptSourceError(
        f"Source {name!r} is not a complete {kind} file: {reason}. Download it again; if that does not help, it is "
        "broken at its origin."
    )
