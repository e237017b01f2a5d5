"""What `torch.save` writes: a pickle of tensors, in a zip or (before torch 1.6) not."""

import pickle
from pathlib import Path
from typing import Any

import torch

from ...errors import CorruptSourceError, UnsafePickleError
from ..entries import choose_entry
from ..inert_pickle import LEGACY, Inert, foreign_name, read_inert
from ..place import ZIP_FACTOR, Place, advice
from ..reference import LoadedSource, SourceReference
from .registry import reader


def _is_torch(place: Place) -> bool:
    zipped = place.has("data.pkl") and not place.has("constants.pkl") and not place.has("archive_format")
    return zipped or place.start.startswith(LEGACY)


@reader("a PyTorch checkpoint", _is_torch, (".pth", ".pt", ".bin", ".ckpt", ".tar"))
def read_torch(place: Place, reference: SourceReference, weights: bool = True) -> LoadedSource:
    """Read a checkpoint of tensors and plain containers; one that holds anything else is refused."""
    file = place.path
    found = _load(file, weights, zipped=bool(place.members))
    tensors, notes = choose_entry(found, reference.entry, str(file))
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size > ZIP_FACTOR * file.stat().st_size + 1_000_000:
        raise CorruptSourceError(
            f"Source {str(file)!r} describes {size} bytes of tensors in {file.stat().st_size} bytes. Take the "
            "checkpoint from its origin again."
        )
    return LoadedSource(reference, tensors, notes=notes)


def _load(file: Path, weights: bool, zipped: bool) -> Any:
    named = file.suffix != ".safetensors"  # torch goes by that name
    # With a map of the file nothing but the pickle itself is read; only zips can be mapped.
    where: dict[str, Any] = {"map_location": "cpu"} if weights else {"map_location": "meta", "mmap": zipped and named}
    try:
        with torch.serialization.safe_globals([*_numbers(), *_shells()]), file.open("rb") as stream:
            return torch.load(file if named else stream, weights_only=True, **where)
    except pickle.UnpicklingError as error:
        name = foreign_name(error)
        if name is None and not zipped:
            raise _damaged(file, error) from error
        raise UnsafePickleError(
            f"Source {str(file)!r} is a pickle of PyTorch that is refused: it holds {_foreign(file, name)} beside its "
            f"tensors, and loading that as its author did would execute code. {advice(file)}"
        ) from error
    except Exception as error:  # whatever torch raises on a damaged file
        raise _damaged(file, error) from error


def _numbers() -> list[Any]:
    """NumPy's numbers, in which training scripts keep their best score."""
    import numpy as np
    from numpy._core import multiarray

    kinds = [type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"]
    names = [(multiarray.scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [*names, np.dtype, *dict.fromkeys(kinds)]


def _shells() -> list[Any]:
    """Lists and logs that trainers keep beside their tensors, as objects that do nothing."""
    names = ("fastcore.foundation.L", "mmengine.logging.history_buffer.HistoryBuffer")
    return [(type(name.rpartition(".")[2], (Inert,), {}), name) for name in names]


def _foreign(file: Path, first: str | None) -> str:
    try:
        foreign = read_inert(file)[1]
    except CorruptSourceError:
        foreign = ()
    names = foreign or ((first,) if first else ("objects",))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _damaged(file: Path, error: Exception) -> CorruptSourceError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
    return CorruptSourceError(f"Source {str(file)!r} cannot be read by torch ({reason}). Download it again.")
