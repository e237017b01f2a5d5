"""What a source says of itself in its headers: names, shapes, config, card. Its weights are not read or downloaded."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import CorruptSourceError
from .entries import choose_entry
from .hub import DESCRIPTIONS, fetch_files, unreachable, weights_among
from .load import local_path, read, with_stated
from .place import Place, base_models
from .readers.folder import weights_files
from .readers.registry import read_place
from .readers.safetensors_file import empty_tensor
from .reference import Description, LoadedSource, Source, SourceReference
from .resolve import resolve_reference


def describe(source: Source, architecture: str | None = None, **hub: Any) -> Description:
    """Read what a source says of itself.

    Args:
        source: see [`load_source`].
        architecture: timm name of the network, for sources that do not say it.
        hub: of `hf_hub_download`: `token`, `cache_dir`, ...

    Returns:
        The description.

    Raises:
        SourceError: what [`load_source`] raises of a header, an index or a reference.
    """
    if isinstance(source, nn.Module):
        loaded = read(source, SourceReference("memory", "memory", architecture=architecture), weights=False)
        return Description(loaded, [], sum(tensor.nbytes for tensor in loaded.tensors.values()))
    reference = resolve_reference(source, architecture, **hub)
    if reference.revision:
        return _describe_on_hub(reference, **hub)
    path = local_path(reference)
    loaded = read(path, reference, weights=False)
    files = weights_files(path)
    cards = base_models(path) if path.is_dir() else []
    return Description(loaded, files, sum(file.stat().st_size for file in files), cards)


# On the Hub: the small files as they are, of the weights only the header, by range requests


def _describe_on_hub(reference: SourceReference, **hub: Any) -> Description:
    from huggingface_hub import HfApi

    api = HfApi(token=hub.get("token"))
    try:
        info = api.model_info(reference.id, revision=reference.revision, files_metadata=True)
    except Exception as error:  # of the client, its HTTP library or the system
        raise unreachable(reference.id, error) from error
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    names = [reference.file or weights_among(sizes, reference.id)]
    folder = fetch_files(
        reference.id, revision=reference.revision, allow_patterns=[*DESCRIPTIONS, "*.safetensors.index.json"], **hub
    )
    if names[0].endswith(".index.json"):
        names = _shards(folder / names[0], sizes)
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for name in names:
        if name.endswith(".safetensors"):
            header, free_text = _remote_header(api, reference, name, sizes[name])
            tensors, metadata = tensors | header, metadata | free_text
    metadata.pop("format", None)
    loaded = _with_headers(reference, tensors, folder)
    loaded = dataclasses.replace(loaded, metadata=metadata)
    return Description(loaded, [], sum(sizes[name] for name in names), base_models(folder))


def _with_headers(reference: SourceReference, tensors: dict[str, Tensor], folder: Path) -> LoadedSource:
    if reference.loader != "file":
        place = dataclasses.replace(Place.of(folder), headers=tensors)
        return with_stated(read_place(place, reference, weights=False))
    notes: list[str] = []
    if tensors:
        tensors, notes = choose_entry(tensors, reference.entry, reference.id)
    return with_stated(LoadedSource(reference, tensors, notes=notes))


def _shards(index: Path, sizes: Mapping[str, int]) -> list[str]:
    """As `shards_of`, where the shards have not been downloaded."""
    found = list(dict.fromkeys(json.loads(index.read_text()).get("weight_map", {}).values()))
    absent = [name for name in found if name not in sizes]
    if absent or not found:
        raise CorruptSourceError(f"Source {str(index)!r} names shards that are not in the repository: {absent[:3]}.")
    return found


def _remote_header(
    api: Any, reference: SourceReference, name: str, size: int
) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        found = api.parse_safetensors_file_metadata(reference.id, name, revision=reference.revision)
        tensors = {key: empty_tensor(entry.dtype, entry.shape) for key, entry in found.tensors.items()}
        end = max((entry.data_offsets[1] for entry in found.tensors.values()), default=0)
        if end > size or sum(tensor.nbytes for tensor in tensors.values()) != end:
            raise ValueError(f"it describes {end} bytes of weights in {size}")
    except Exception as error:  # of the client, its HTTP library, or a header that makes no sense
        raise CorruptSourceError(
            f"Source {reference.id!r}: the header of {name} cannot be read ({type(error).__name__}: {error})."
        ) from error
    return tensors, dict(found.metadata)
