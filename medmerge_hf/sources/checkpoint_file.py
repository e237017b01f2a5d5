"""A checkpoint file -> its tensors, without executing code."""

import dataclasses
import json
import logging
import math
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from ..errors import CorruptSourceError, SourceNotFoundError, UnsafePickleError


logger = logging.getLogger(__name__)


SAFE_SUFFIXES = (".safetensors", ".safetensors.index.json")

PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar")

WRAPPER_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "model_ema", "teacher", "student")


def read_json(file: Path) -> dict[str, Any]:
    """A config file.

    Raises:
        CorruptSourceError: it is not there, or no JSON.
    """
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise CorruptSourceError(f"{file} cannot be read as JSON ({error}).") from error


def read_checkpoint(path: str, weights: bool = True) -> dict[str, Tensor]:
    """Read the tensors of a `.safetensors` file (or index of several), or of a pickle that needs no code.

    Args:
        path: the file.
        weights: `False` reads names, shapes and dtypes alone: tensors on the meta device.

    Returns:
        Name -> tensor on the CPU. Wrappers such as `{"state_dict": ...}` are opened.

    Raises:
        SourceNotFoundError: there is no such file.
        CorruptSourceError: truncated, of another format, larger inside than outside, or without tensors.
        UnsafePickleError: a pickle that would execute code.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise SourceNotFoundError(f"Source {path!r}: no such file (looked at {file.absolute()}).")
    if file.name.endswith(".index.json"):
        tensors: Any = {}
        for shard in read_index(file):
            tensors |= _read_safetensors(shard, weights)
    else:
        tensors = (_read_safetensors if file.suffix in SAFE_SUFFIXES else _read_pickle)(file, weights)
    while isinstance(tensors, Mapping) and (
        key := next((k for k in WRAPPER_KEYS if isinstance(tensors.get(k), Mapping)), None)
    ):
        logger.info("Source %s: read from its entry %r.", path, key)
        tensors = tensors[key]
    tensors = {k: v for k, v in tensors.items() if isinstance(v, Tensor)} if isinstance(tensors, Mapping) else {}
    if not tensors:
        raise CorruptSourceError(f"Source {path!r} holds no state dict (name -> tensor).")
    return tensors


def check_folder(folder: Path) -> None:
    """Check what the weights files of a folder say of themselves, before a library reads them.

    Raises:
        CorruptSourceError: an index that leads out of the folder, a header that the format does not allow, a zip bomb.
    """
    for index in sorted(folder.glob("*.index.json")):
        read_index(index)
    for file in sorted(folder.glob("*.safetensors")):
        _header_of(file)
    for suffix in PICKLE_SUFFIXES:
        for file in sorted(folder.glob(f"*{suffix}")):
            check_zip(file)


def _header_of(file: Path) -> dict[str, Tensor]:
    try:
        return read_header(file).tensors
    except CorruptSourceError as error:
        if what := _looks_like(file):
            raise CorruptSourceError(f"Source {str(file)!r} is no safetensors file. {what}") from error
        raise


def _read_safetensors(file: Path, weights: bool = True) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    header = _header_of(file)
    if not weights:
        return header
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise CorruptSourceError(
            f"Source {str(file)!r} ({file.stat().st_size} bytes) is not a complete safetensors file ({error})."
        ) from error


def _looks_like(file: Path) -> str:
    start = file.open("rb").read(200)
    if start.startswith(b"version https://git-lfs"):
        return "It is a Git LFS pointer: fetch the file itself (`git lfs pull`, or `hf download`)."
    text = start.decode(errors="replace")
    if text and text.replace("\n", " ").replace("\r", " ").replace("\t", " ").isprintable() and text.isascii():
        return f"It is a text file that begins with {text[:30]!r}."
    return ""


def _read_pickle(file: Path, weights: bool = True) -> Any:
    import pickle
    import zipfile

    check_zip(file)
    # With a map of the file nothing but the pickle itself is read; only zips can be mapped.
    lazily = {"map_location": "meta", "mmap": zipfile.is_zipfile(file)}
    try:
        return torch.load(file, weights_only=True, **({"map_location": "cpu"} if weights else lazily))
    except pickle.UnpicklingError as error:
        raise UnsafePickleError(
            f"Source {str(file)!r} is a pickle that is refused, since loading it would execute code or it is no "
            f"checkpoint at all ({_reason(error)}). Where you trust its origin, convert it "
            "once on a machine that you can lose: safetensors.torch.save_file(torch.load(path, weights_only=False)"
            ".state_dict(), 'model.safetensors')."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CorruptSourceError(
            f"Source {str(file)!r} cannot be read by torch ({error}). Download it again."
        ) from error


def _reason(error: Exception) -> str:
    """Of torch's advice on a refused pickle, the line that says what was wrong."""
    lines = [line.strip() for line in str(error).splitlines() if "WeightsUnpickler error" in line]
    reason = lines[0].partition("WeightsUnpickler error:")[2] if lines else str(error).splitlines()[0]
    return reason.strip().split(". ")[0][:160]


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
