"""A plain pickle of arrays, as Detectron's model zoo has them: `{"model": {name: array}}`."""

import pickle
from collections.abc import Mapping
from typing import Any

import torch

from ...errors import UnsafePickleError
from ..entries import choose_entry
from ..inert_pickle import LEGACY, read_inert
from ..place import Place, advice
from ..reference import LoadedSource, SourceReference
from .registry import reader


def _is_pickle(place: Place) -> bool:
    start = place.start
    return start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5") and not start.startswith(LEGACY)


@reader("a pickle of arrays", _is_pickle, (".pkl", ".pickle"))
def read_pickle(place: Place, reference: SourceReference, weights: bool = True) -> LoadedSource:
    """Read a pickle of arrays and plain containers; one that holds anything else is refused."""
    file = place.path
    found, foreign = read_inert(file)
    if foreign:
        raise UnsafePickleError(
            f"Source {str(file)!r} is a pickle (no checkpoint of PyTorch) that is refused: it holds "
            f"{', '.join(foreign[:3])}, and loading that as its author did would execute code. {advice(file)}"
        )
    tensors, notes = choose_entry(as_tensors(found), reference.entry, str(file))
    where = "cpu" if weights else "meta"
    return LoadedSource(reference, {name: tensor.to(where) for name, tensor in tensors.items()}, notes=notes)


def as_tensors(found: Any, depth: int = 0) -> Any:
    """The same mappings with tensors for arrays of numbers."""
    import numpy as np

    if isinstance(found, Mapping):
        if depth > 20:
            raise pickle.UnpicklingError("mappings deeper than 20")
        return {key: as_tensors(value, depth + 1) for key, value in found.items()}
    if isinstance(found, np.ndarray) and found.dtype.kind in "fiub" and found.dtype.itemsize <= 8:
        return torch.from_numpy(np.ascontiguousarray(found.astype(found.dtype.newbyteorder("="), copy=False)))
    return found
