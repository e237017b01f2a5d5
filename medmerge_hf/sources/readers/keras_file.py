"""Keras' own files: HDF5 of a whole network or of its weights, and `.keras`. Nothing of the network is built.

Names are the layers' with torch's words for what a layer holds; kernels lie as torch has them.
"""

import json
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import CorruptSourceError, SourceError
from ..entries import choose_entry
from ..place import ZIP_FACTOR, Place
from ..reference import LoadedSource, SourceReference
from .hdf5_probe import probe
from .keras_layers import Array, keras_source, torch_names
from .registry import reader


HDF5 = b"\x89HDF\r\n\x1a\n"

# What the numbered variables of a layer are, in Keras 3's own order.
VARIABLES = {
    "conv2d": ("kernel", "bias"),
    "depthwise_conv2d": ("depthwise_kernel", "bias"),
    "separable_conv2d": ("depthwise_kernel", "pointwise_kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "dense": ("kernel", "bias"),
    "normalization": ("mean", "variance", "count"),
}


def _is_keras(place: Place) -> bool:
    return place.start.startswith(HDF5) or place.has("config.json", "model.weights.h5")


@reader("Keras (HDF5 or .keras)", _is_keras, (".h5", ".hdf5", ".keras"))
def read_keras(place: Place, reference: SourceReference, weights: bool = True) -> LoadedSource:
    """Read the layers' weights, and state in what Keras' network of these names differs from timm's."""
    try:
        import h5py
    except ImportError as error:
        raise SourceError(
            f"Source {str(place.path)!r} is a Keras file (HDF5): reading it needs h5py. `pip install "
            "'medmerge_hf[keras]'`."
        ) from error
    try:
        with _whole(place) as path, h5py.File(path, "r") as file:
            arrays = dict(_arrays(file, place, weights))
            config = _network_of(place, file)
    except SourceError:
        raise
    except Exception as error:  # whatever HDF5 raises on a damaged file
        raise CorruptSourceError(
            f"Source {str(place.path)!r} is a Keras file (HDF5) that h5py cannot read ({error}): cut or damaged. "
            "Save it again where it was trained, model.save('model.keras')."
        ) from error
    tensors, notes = choose_entry(arrays, reference.entry, str(place.path))
    return keras_source(reference, tensors, notes, config)


@contextmanager
def _whole(place: Place) -> Iterator[Path]:
    """The HDF5 file, once another process could read all of it."""
    if not place.members:
        probe(place.path)
        yield place.path
        return
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(place.path) as archive:
        path = Path(archive.extract("model.weights.h5", folder))
        probe(path)
        yield path


def _network_of(place: Place, file: Any) -> Any:
    """Keras' own description of the network, where the file has one."""
    if place.members:
        with zipfile.ZipFile(place.path) as archive:
            return json.loads(archive.read("config.json"))
    return json.loads(file.attrs.get("model_config") or "{}")


def _arrays(file: Any, place: Place, weights: bool) -> Iterator[tuple[str, Tensor]]:
    found: dict[str, Any] = {}
    file.visititems(lambda path, item: found.__setitem__(path, item))
    datasets = {path: item for path, item in found.items() if hasattr(item, "dtype") and "optimizer" not in path}
    if any(item.external or item.is_virtual for item in datasets.values()):
        raise CorruptSourceError(f"Source {str(place.path)!r} is an HDF5 file that leads to other files.")
    size = sum(item.nbytes for item in datasets.values())
    if size > ZIP_FACTOR * place.path.stat().st_size + 1_000_000:
        raise CorruptSourceError(f"Source {str(place.path)!r} would unpack to {size} bytes: no checkpoint of Keras.")
    arrays = {path: _array(path, found) for path in datasets if path.rpartition("/")[0]}
    names = torch_names(arrays.values())
    for path, array in arrays.items():
        if datasets[path].dtype.kind in "fiu":
            tensor = _tensor(datasets[path], weights or array.leaf in ("mean", "variance"))
            yield names[array], array.as_torch(tensor)


def _array(path: str, found: dict[str, Any]) -> Array:
    parts = path.removeprefix("model_weights/").split("/")
    if len(parts) < 3 or parts[-2] != "vars" or not parts[-1].isdigit():
        return Array.of_path("/".join(parts))
    kind = parts[-3].rstrip("0123456789").rstrip("_")
    leaves = VARIABLES.get(kind if kind in VARIABLES else parts[-3], ())
    leaf = leaves[int(parts[-1])] if int(parts[-1]) < len(leaves) else f"variable{parts[-1]}"
    stated = found[path.rpartition("/")[0]].attrs.get("name") or parts[-3]
    layer = stated.decode() if isinstance(stated, bytes) else str(stated)
    return Array(layer, leaf, ".".join(part for part in parts[:-3] if part != "layers"))


def _tensor(dataset: Any, weights: bool) -> Tensor:
    if not weights:
        kind = torch.from_numpy(dataset.dtype.type(0).reshape(1)).dtype
        return torch.empty(dataset.shape, dtype=kind, device="meta")
    return torch.as_tensor(dataset[()]).reshape(dataset.shape)
