"""What a source says of itself in its headers: names, shapes, config, card. Its weights are not read or downloaded."""

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CorruptSourceError
from ..networks.input_convention import InputConvention
from ..networks.preprocessing import processor_input
from ..networks.timm_config import file_config, timm_config, timm_input
from .checkpoint_file import DTYPES, PICKLE_SUFFIXES, check_header, read_checkpoint, read_header, read_index, read_json
from .hub import DESCRIPTIONS, WEIGHTS, fetch_files, unreachable
from .load import load_source
from .readers import read_card, read_license
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
        loaded = load_source(source, architecture)
        size = sum(tensor.nbytes for tensor in loaded.tensors.values())
        return Description(dataclasses.replace(loaded, tensors=_empty(loaded.tensors)), [], size)
    reference = resolve_reference(source, architecture, **hub)
    if reference.revision:
        return _describe_on_hub(reference, **hub)
    if reference.loader == "file":
        return _describe_files(reference, [Path(reference.id) / (reference.file or "")])
    folder = Path(reference.id)
    found = _weights_among([file.name for file in folder.iterdir()], str(folder))
    described = _describe_files(reference, [folder / name for name in found], folder)
    return dataclasses.replace(described, base_model=_base_model(folder))


def _empty(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}


def _describe_files(reference: SourceReference, files: list[Path], folder: Path | None = None) -> Description:
    shards = [shard for file in files for shard in (read_index(file) if file.name.endswith(".index.json") else [file])]
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= read_checkpoint(str(file), weights=False)
    metadata = {k: v for s in shards if s.suffix == ".safetensors" for k, v in read_header(s).metadata.items()}
    metadata.pop("format", None)
    loaded = _with_config(reference, tensors, folder)
    return Description(loaded, shards, sum(shard.stat().st_size for shard in shards), [], metadata)


def _with_config(reference: SourceReference, tensors: Mapping[str, Tensor], folder: Path | None) -> LoadedSource:
    if folder is None:
        config = file_config(reference.architecture, tensors)
        return LoadedSource(reference, tensors, config, input=reference.input)
    stated = read_json(folder / "config.json")
    reference = dataclasses.replace(reference, license=reference.license or read_license(folder))
    if reference.loader == "timm":
        config = timm_config(stated["architecture"], stated.get("pretrained_cfg"), stated.get("model_args"))
        reference = dataclasses.replace(reference, architecture=stated["architecture"])
        return LoadedSource(reference, tensors, config, input=reference.input or timm_input(config))
    return LoadedSource(reference, tensors, stated, input=reference.input or _processor_of(folder))


def _processor_of(folder: Path) -> InputConvention | None:
    from transformers import AutoImageProcessor

    try:
        return processor_input(AutoImageProcessor.from_pretrained(folder))
    except (OSError, ValueError):
        return None


def _base_model(folder: Path) -> list[str]:
    found = read_card(folder).get("base_model")
    return [found] if isinstance(found, str) else list(found or [])


# On the Hub: the small files as they are, of the weights only the header, by range requests


def _describe_on_hub(reference: SourceReference, **hub: Any) -> Description:
    from huggingface_hub import HfApi

    api = HfApi(token=hub.get("token"))
    try:
        info = api.model_info(reference.id, revision=reference.revision, files_metadata=True)
    except Exception as error:  # of the client, its HTTP library or the system
        raise unreachable(reference.id, error) from error
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    names = [reference.file] if reference.file else _weights_among(sizes, reference.id)
    folder = fetch_files(
        reference.id, revision=reference.revision, allow_patterns=[*DESCRIPTIONS, "*.safetensors.index.json"], **hub
    )
    if names[0].endswith(".index.json"):
        names = _shards(folder / names[0], sizes)
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for name in names:
        if not name.endswith(PICKLE_SUFFIXES):
            header = _remote_header(api, reference, name, sizes[name])
            tensors, metadata = tensors | header.tensors, metadata | header.metadata
    metadata.pop("format", None)
    loaded = _with_config(reference, tensors, None if reference.loader == "file" else folder)
    return Description(loaded, [], sum(sizes[name] for name in names), _base_model(folder), metadata)


def _weights_among(files: Collection[str], source: str) -> list[str]:
    for names in WEIGHTS:
        for name in names:
            if name in files:
                return [name]
    raise CorruptSourceError(f"Source {source!r} holds no weights under the names of timm and transformers.")


def _shards(index: Path, sizes: Mapping[str, int]) -> list[str]:
    """As [`read_index`], where the shards have not been downloaded."""
    found = list(dict.fromkeys(json.loads(index.read_text()).get("weight_map", {}).values()))
    absent = [name for name in found if name not in sizes]
    if absent or not found:
        raise CorruptSourceError(f"Source {str(index)!r} names shards that are not in the repository: {absent[:3]}.")
    return found


def _remote_header(api: Any, reference: SourceReference, name: str, size: int) -> Any:
    try:
        found = api.parse_safetensors_file_metadata(reference.id, name, revision=reference.revision)
    except Exception as error:  # likewise
        raise CorruptSourceError(
            f"Source {reference.id!r}: the header of {name} cannot be read ({type(error).__name__}: {error})."
        ) from error
    tensors = {
        key: {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": list(entry.data_offsets)}
        for key, entry in found.tensors.items()
    }
    end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    unknown = {entry["dtype"] for entry in tensors.values()} - DTYPES.keys()
    if unknown or end > size:
        kinds = ", ".join(sorted(unknown)) or "weights"
        raise CorruptSourceError(f"Source {reference.id!r}: {name} of {size} bytes describes {end} bytes of {kinds}.")
    return check_header(f"{reference.id}/{name}", {"__metadata__": found.metadata, **tensors}, end)
