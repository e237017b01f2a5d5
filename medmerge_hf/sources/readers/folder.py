"""What the weights files of a folder say of themselves, before and beside the library that reads them."""

from pathlib import Path

from torch import Tensor

from ..hub import weights_among
from ..place import Place
from ..reference import SourceReference
from .index_file import shards_of
from .registry import find_format, read_place
from .safetensors_file import read_header
from .tfjs_file import parts_of


PICKLES = ("*.bin", "*.pth", "*.pt")


def weights_files(path: Path) -> list[Path]:
    """The files that hold the weights of a file (or index), or of a folder of timm or transformers.

    Raises:
        CorruptSourceError: an index that leads out of its folder, or a folder without weights.
    """
    if path.is_dir():
        path = path / weights_among([file.name for file in path.iterdir()], str(path))
    if path.name.endswith(".index.json"):
        return shards_of(path)
    return [path, *parts_of(path)] if find_format(Place.of(path)).name == "TensorFlow.js" else [path]


def folder_headers(place: Place) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Names and shapes of a folder's weights, as empty tensors, and the free text beside them.

    Args:
        place: of the folder.
    """
    return (place.headers, {}) if place.headers is not None else folder_weights(place, weights=False)


def folder_weights(place: Place, weights: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a folder by their names on disk, and the free text beside them.

    Args:
        place: of the folder.
        weights: `False` reads names, shapes and dtypes alone: tensors on the meta device.
    """
    file = place.path / weights_among([file.name for file in place.path.iterdir()], str(place.path))
    found = read_place(Place.of(file), SourceReference(str(file)), weights)
    return dict(found.tensors), found.metadata


def check_folder(folder: Path) -> None:
    """Check what the weights files of a folder say of themselves, before a library reads them.

    Raises:
        CorruptSourceError: an index that leads out of the folder, a header that the format does not allow, a zip bomb.
    """
    for index in sorted(folder.glob("*.index.json")):
        shards_of(index)
    for file in sorted(folder.glob("*.safetensors")):
        if find_format(Place.of(file)).name == "safetensors":
            read_header(file)
    for pattern in PICKLES:
        for file in sorted(folder.glob(pattern)):
            find_format(Place.of(file))


def as_stored(tensors: dict[str, Tensor], place: Place) -> dict[str, Tensor]:
    """A library's tensors in the dtype that the file has, where that is no common floating point (float8, integers).

    The library has rounded or counted them as if they were numbers; conversion must see what they are.
    """
    stored = {name: tensor.dtype for name, tensor in folder_headers(place)[0].items() if name in tensors}
    odd = {name: dtype for name, dtype in stored.items() if not dtype.is_floating_point or dtype.itemsize == 1}
    return tensors | {
        name: tensors[name].to(dtype) for name, dtype in odd.items() if tensors[name].dtype.is_floating_point
    }
