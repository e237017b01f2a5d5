"""Keras' own files: HDF5 of a whole network or of its weights, and `.keras`. Nothing of the network is built.

Names are the layers' with torch's words for what a layer holds; kernels lie as torch has them.
"""

import dataclasses
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
from ..reference import LoadedSource, NetworkVariant, SourceReference
from .hdf5_probe import probe
from .keras_networks import family_of, fold_biases
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

LEAVES = {
    **{"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"},
    **{"kernel": "weight", "depthwise_kernel": "depthwise.weight", "pointwise_kernel": "pointwise.weight"},
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
    return _stated(reference, tensors, notes, config)


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
    names = {path: _name(path, found) for path in datasets if path.rpartition("/")[0]}
    several = len(names) > len({(layer, leaf) for layer, leaf, _ in names.values()})
    for path, (layer, leaf, outer) in names.items():
        if datasets[path].dtype.kind in "fiu":
            name = f"{outer}.{layer}" if several and outer else layer
            tensor = _tensor(datasets[path], weights or leaf in ("mean", "variance"))
            yield f"{name}.{LEAVES.get(leaf, leaf)}", _as_torch(tensor, layer, leaf)


def _name(path: str, found: dict[str, Any]) -> tuple[str, str, str]:
    """Layer, what it is of the layer, and the network around it."""
    parts = path.removeprefix("model_weights/").split("/")
    if len(parts) > 2 and parts[-2] == "vars" and parts[-1].isdigit():
        kind = parts[-3].rstrip("0123456789").rstrip("_")
        kind = kind if kind in VARIABLES else parts[-3]
        leaves = VARIABLES.get(kind, ())
        leaf = leaves[int(parts[-1])] if int(parts[-1]) < len(leaves) else f"variable{parts[-1]}"
        stated = found[path.rpartition("/")[0]].attrs.get("name") or parts[-3]
        layer = stated.decode() if isinstance(stated, bytes) else str(stated)
        return layer, leaf, ".".join(part for part in parts[:-3] if part != "layers")
    layer = parts[-2] if len(parts) > 1 else ""
    return layer, parts[-1].partition(":")[0], ".".join(part for part in parts[:-2] if part != layer)


def _tensor(dataset: Any, weights: bool) -> Tensor:
    if not weights:
        kind = torch.from_numpy(dataset.dtype.type(0).reshape(1)).dtype
        return torch.empty(dataset.shape, dtype=kind, device="meta")
    return torch.as_tensor(dataset[()]).reshape(dataset.shape)


def _as_torch(tensor: Tensor, layer: str, leaf: str) -> Tensor:
    """A kernel with its axes in torch's order."""
    if tensor.ndim == 4:
        height, width, channels, factor = tensor.shape
        depthwise = leaf == "depthwise_kernel" or (leaf == "kernel" and _is_depthwise(layer))
        if depthwise:
            return tensor.permute(2, 3, 0, 1).reshape(channels * factor, 1, height, width)
        return tensor.permute(3, 2, 0, 1)
    return tensor.t() if tensor.ndim == 2 and leaf == "kernel" else tensor


def _is_depthwise(layer: str) -> bool:
    return "depthwise" in layer or "dwconv" in layer


def _plain(name: str) -> str:
    """A depthwise layer has one kernel, whatever Keras calls it; a separable one has two."""
    layer = name.removesuffix(".depthwise.weight")
    return f"{layer}.weight" if layer != name and _is_depthwise(layer) else name


def _stated(reference: SourceReference, tensors: dict[str, Tensor], notes: list[str], config: Any) -> LoadedSource:
    tensors = {_plain(name): tensor for name, tensor in tensors.items()}
    family = family_of(tensors)
    if family is None:
        return LoadedSource(reference, tensors, notes=[*notes, "read as Keras layers of a network unknown here"])
    images = family.convention(tensors)
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("normalization")}
    tensors, folded = fold_biases(family.prepare(tensors))
    variant = dataclasses.replace(family.variant, bn_eps=_eps(config) or family.variant.bn_eps)
    reference = dataclasses.replace(
        reference,
        architecture=reference.architecture or family.architecture,
        variant=_with(variant, reference.variant),
    )
    notes = [*notes, f"read as Keras' {family.name}", *folded]
    if reference.input is None:
        notes.append(f"input taken for what Keras' {family.name} is given ({family.input}); input= says otherwise")
    return LoadedSource(reference, tensors, input=images, notes=notes)


def _with(stated: NetworkVariant, given: NetworkVariant | None) -> NetworkVariant:
    """What the user says of the variant before what the reader does."""
    plain, given = NetworkVariant(), given or NetworkVariant()
    names = [field.name for field in dataclasses.fields(NetworkVariant)]
    own = {name: getattr(given, name) for name in names if getattr(given, name) != getattr(plain, name)}
    return dataclasses.replace(stated, **own)


def _eps(config: Any) -> float | None:
    """The one epsilon of all BatchNorms, where the network is described."""
    found = set[float]()
    waiting = [config]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if part.get("class_name") == "BatchNormalization":
                found.add(float(part.get("config", {}).get("epsilon", 1e-3)))
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)
    return found.pop() if len(found) == 1 else None
