"""A checkpoint in several files: the `*.index.json` that names them, each read by its own format."""

import json
from pathlib import Path, PurePosixPath

from torch import Tensor

from ...errors import CorruptSourceError
from ..entries import choose_entry
from ..place import Place, read_json
from ..reference import LoadedSource, SourceReference
from .registry import read_place, reader


def _is_index(place: Place) -> bool:
    return place.start.lstrip()[:1] == b"{" and b'"' in place.start[:64] and place.path.name.endswith(".index.json")


@reader("an index of several files", _is_index, (".json",))
def read_index(place: Place, reference: SourceReference, weights: bool = True) -> LoadedSource:
    """Read every file that an index names."""
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    notes: list[str] = []
    for shard in shards_of(place.path):
        found = read_place(Place.of(shard), SourceReference(str(shard)), weights)
        if twice := sorted(tensors.keys() & found.tensors.keys()):
            raise CorruptSourceError(
                f"Source {str(place.path)!r}: {twice[0]!r} stands in {shard.name!r} and in a file before it. Download "
                "the files of one checkpoint."
            )
        tensors, metadata = {**tensors, **found.tensors}, metadata | found.metadata
        notes += [note for note in found.notes if note not in notes]
    tensors, more = choose_entry(tensors, reference.entry, str(place.path))
    return LoadedSource(reference, tensors, notes=notes + more, metadata=metadata)


def shards_of(file: Path) -> list[Path]:
    """The files that an index names, beside it.

    Args:
        file: the index.

    Returns:
        Their paths, each once.

    Raises:
        CorruptSourceError: no index, a file that is not there, or a name that leads out of the folder.
    """
    shards = read_json(file).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise CorruptSourceError(f"Source {str(file)!r} names no weight_map: it is no index of a checkpoint.")
    found = []
    for shard in {json.dumps(shard): shard for shard in shards.values()}.values():
        if not isinstance(shard, str) or PurePosixPath(shard).name != shard or "\\" in shard or "\0" in shard:
            raise CorruptSourceError(
                f"Source {str(file)!r} names the file {str(shard)[:80]!r}, which does not lie beside it."
            )
        if not (file.parent / shard).is_file() or shard.endswith(".index.json"):
            raise CorruptSourceError(f"Source {str(file)!r}: its file {shard!r} is not there. Download it too.")
        found.append(file.parent / shard)
    return found
