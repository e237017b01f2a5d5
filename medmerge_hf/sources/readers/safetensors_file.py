"""safetensors, read by the library itself; what it lets pass (a name that stands twice) is refused here."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import CorruptSourceError
from ..entries import choose_entry
from ..place import Place
from ..reference import LoadedSource, SourceReference
from .registry import reader


DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "BOOL": torch.bool, "U8": torch.uint8},
    **{"F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2FNUZ": torch.float8_e5m2fnuz},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "C64": torch.complex64},
    **{"U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64},
}


def _is_safetensors(place: Place) -> bool:
    return place.start[8:9] == b"{" and not place.start.startswith((b"\x80", b"version"))


@reader("safetensors", _is_safetensors, (".safetensors",))
def read_safetensors(place: Place, reference: SourceReference, weights: bool = True) -> LoadedSource:
    """Read all tensors, or their shapes, after the header was checked."""
    file = place.path
    tensors, metadata = read_header(file)
    tensors = load_tensors(file) if weights else tensors
    tensors, notes = choose_entry(tensors, reference.entry, str(file))
    return LoadedSource(reference, tensors, notes=notes, metadata=metadata)


def load_tensors(file: Path) -> dict[str, Tensor]:
    """Name -> tensor of a safetensors file.

    Raises:
        CorruptSourceError: the library cannot read it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(file))
    except (SafetensorError, OSError, ValueError, OverflowError, RuntimeError) as error:
        raise damaged(file, str(error)) from error


def read_header(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What the header of a safetensors file says; its weights are not read.

    Returns:
        Name -> empty tensor of its shape and dtype on the `meta` device, and the free text of whoever wrote the file.

    Raises:
        CorruptSourceError: a header that the format does not allow, or a name that stands twice.
    """
    from safetensors import SafetensorError, safe_open

    tensors = {}
    try:
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118  (no mapping)
                part = opened.get_slice(name)
                tensors[name] = empty_tensor(part.get_dtype(), part.get_shape())
            metadata = dict(opened.metadata() or {})
    except (SafetensorError, OSError, ValueError, OverflowError, RuntimeError) as error:
        raise damaged(file, str(error)) from error
    _refuse_names_that_stand_twice(file)
    metadata.pop("format", None)
    return tensors, metadata


def empty_tensor(dtype: str, shape: Any) -> Tensor:
    """A tensor of safetensors' dtype on the `meta` device; a ValueError for dtypes that torch does not have."""
    if dtype not in DTYPES:
        raise ValueError(f"no tensor of torch has the dtype {dtype}")
    return torch.empty(list(shape), dtype=DTYPES[dtype], device="meta")


def _refuse_names_that_stand_twice(file: Path) -> None:
    """The library takes the last of them, other readers the first: two networks in one file."""
    with file.open("rb") as stream:
        text = stream.read(int.from_bytes(stream.read(8), "little"))
    twice = set[str]()

    def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice.update(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        return dict(pairs)

    json.loads(text, object_pairs_hook=note)
    if twice:
        raise damaged(file, f"{min(twice)!r} stands twice in its header")


def damaged(file: "Path | str", reason: str) -> CorruptSourceError:
    """The error for a file whose description of itself is wrong."""
    return CorruptSourceError(
        f"Source {str(file)!r} is not a complete safetensors file: {reason}. Download it again; if that does not "
        "help, it is broken at its origin."
    )
