"""The tensors of a pickle whose other objects stay dead: every class but tensors and arrays becomes an empty shell.

Nothing of the file runs. It serves to say what a refused file holds, and to take its tensors out on the user's word.
"""

import collections
import io
import pickle
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CorruptSourceError
from .place import zip_members


class Inert:
    """An object whose class was not looked up: it keeps what it was given, and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
        """Made of anything."""
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.items: dict[Any, Any] = {}

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.__dict__.update({str(key): value for key, value in part.items()})

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__dict__.setdefault("items", {})[key] = value

    def __call__(self, *args: Any, **kwargs: Any) -> "Inert":
        """Of functions; nothing is called."""
        return Inert()

    def append(self, value: Any) -> None:
        """Of lists; forgotten."""

    def extend(self, values: Any) -> None:
        """Of lists; forgotten."""

    def add(self, value: Any) -> None:
        """Of sets; forgotten."""


@cache
def _array_functions() -> dict[str, Any]:
    """What a pickle needs to build tensors, arrays and plain containers. None of these runs what it is given."""
    import numpy as np
    from numpy._core import multiarray

    made = {"OrderedDict": collections.OrderedDict, "defaultdict": lambda *args: {}}
    known = {f"collections.{name}": value for name, value in made.items()}
    for function in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_qtensor"):
        known[f"torch._utils.{function}"] = getattr(torch._utils, function)
    known |= {"torch.Size": torch.Size, "torch.device": torch.device, "torch.nn.parameter.Parameter": nn.Parameter}
    known |= {f"torch.{name}": getattr(torch, name) for name in ("per_tensor_affine", "per_channel_affine")}
    for package in ("numpy.core.multiarray", "numpy._core.multiarray"):
        known |= {f"{package}._reconstruct": _array, f"{package}.scalar": multiarray.scalar}
    known["torch.storage._load_from_bytes"] = lambda content: torch.load(io.BytesIO(content), weights_only=True)
    known["_codecs.encode"] = lambda text, encoding: text.encode("latin-1")
    return {**known, "numpy.ndarray": np.ndarray, "numpy.dtype": np.dtype}


def _array(kind: Any, shape: Any, code: Any) -> Any:
    import numpy as np

    return np.ndarray((0,), np.int8)  # the shape comes with the state


class InertUnpickler(pickle.Unpickler):
    """Reads any pickle without looking up a class.

    Args:
        file: open, in binary.
        storage: from a storage's class name, key and number of elements to its content; none for plain pickles.
    """

    def __init__(self, file: Any, storage: "Callable[[str, str, int], Any] | None" = None) -> None:
        super().__init__(file, encoding="latin-1")
        self.storage, self.foreign = storage, dict[str, None]()
        self.functions = _array_functions()

    def find_class(self, module: str, name: str) -> Any:
        """A tensor's or array's own functions, or an empty shell of that name."""
        path = f"{module}.{name}"
        if path in self.functions:
            return self.functions[path]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module in ("torch", "torch.storage") and name.endswith("Storage"):
            return name
        self.foreign[path] = None
        return type(name, (Inert,), {})

    def persistent_load(self, pid: Any) -> Any:
        """A storage."""
        if self.storage is None or not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise pickle.UnpicklingError("a reference that leads out of the file")
        return self.storage(str(pid[1]), str(pid[2]), int(pid[4]))


def read_inert(file: Path) -> tuple[Any, tuple[str, ...]]:
    """Everything that a pickle (torch's zip, TorchScript, plain) holds, foreign objects as [`Inert`].

    Args:
        file: the file; torch's format before 1.6 is read as far as its first object.

    Returns:
        The object, and the names of the classes that were not looked up.

    Raises:
        CorruptSourceError: no such pickle.
    """
    try:
        if not zip_members(file):
            return _read_legacy(file)
        with zipfile.ZipFile(file) as archive:
            name = next(entry for entry in archive.namelist() if f"/{entry}".endswith("/data.pkl"))
            unpickler = InertUnpickler(io.BytesIO(archive.read(name)), _Storages(archive, name[: -len("data.pkl")]))
            return unpickler.load(), tuple(unpickler.foreign)
    except CorruptSourceError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise CorruptSourceError(f"Source {str(file)!r} is a damaged pickle ({error}). Download it again.") from error


def _read_legacy(file: Path) -> tuple[Any, tuple[str, ...]]:
    """Plain pickles at once; torch's old format by torch, which is told of a class at a time."""
    with file.open("rb") as stream:
        if stream.read(len(LEGACY)) != LEGACY:
            stream.seek(0)
            unpickler = InertUnpickler(stream)
            return unpickler.load(), tuple(unpickler.foreign)
    shells: list[Any] = []
    while True:
        with torch.serialization.safe_globals(shells):
            try:
                return torch.load(file, map_location="cpu", weights_only=True), tuple(name for _, name in shells)
            except pickle.UnpicklingError as error:
                found = foreign_name(error)
                if found is None or found in {name for _, name in shells}:
                    raise
                shells.append((type("Shell", (Inert,), {}), found))


LEGACY = b"\x80\x02\x8a\nl\xfc\x9c"  # how torch began its files before 1.6


def foreign_name(error: Exception) -> str | None:
    """The class that torch's reader of weights refused."""
    _, found, rest = str(error).partition("GLOBAL ")
    name = rest.split(" ")[0]
    return (name if "." in name else f"builtins.{name}") if found else None


class _Storages:
    """The numbers in a zip of torch."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        self.archive, self.folder, self.found = archive, folder, dict[str, Any]()

    def __call__(self, kind: str, key: str, count: int) -> Any:
        if key not in self.found:
            dtype = getattr(torch, kind).dtype if kind != "UntypedStorage" else torch.uint8
            content = bytearray(self.archive.read(f"{self.folder}data/{key}"))
            if len(content) < count * dtype.itemsize:
                raise pickle.UnpicklingError(f"storage {key} holds {len(content)} bytes, not {count} x {dtype}")
            storage = torch.frombuffer(content or bytearray(8), dtype=torch.uint8).untyped_storage()
            self.found[key] = torch.storage.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)
        return self.found[key]


def module_tensors(found: Any, depth: int = 0) -> dict[str, Tensor]:
    """The state dict of a network that was pickled whole, or scripted.

    Args:
        found: an [`Inert`] of a module.
        depth: of the recursion, which ends at 100.

    Returns:
        Name -> tensor; none where it is no module.
    """
    if not isinstance(found, Inert) or depth > 100:
        return {}
    fields = vars(found)
    tensors: dict[str, Tensor] = {}
    inner: dict[str, Inert] = {}
    for group in (fields.get("_parameters"), fields.get("_buffers"), fields):
        tensors |= {str(k): v for k, v in _items(group) if isinstance(v, Tensor)}
    for group in (fields.get("_modules"), fields):
        inner |= {str(k): v for k, v in _items(group) if isinstance(v, Inert)}
    for name, module in inner.items():
        tensors |= {f"{name}.{key}": tensor for key, tensor in module_tensors(module, depth + 1).items()}
    return tensors


def _items(group: Any) -> Any:
    return group.items() if isinstance(group, Mapping) else ()
