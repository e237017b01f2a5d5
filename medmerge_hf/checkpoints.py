"""A checkpoint file -> its tensors, without executing code."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import CorruptSourceError, SourceNotFoundError, UnsafePickleError
from .headers import check_zip, read_header, read_index


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
