"""From a reference (Hub id, folder, file, module in memory) to the tensors of a checkpoint."""

import dataclasses
from pathlib import Path, PurePosixPath
from typing import Any

from torch import nn

from ..errors import SourceNotFoundError
from ..networks.timm_config import file_config
from .hub import fetch_file, fetch_source
from .place import Place, read_json
from .readers.registry import read_place
from .reference import LoadedSource, Source, SourceReference
from .resolve import resolve_reference


def load_source(source: Source, architecture: str | None = None, **hub: Any) -> LoadedSource:
    """Read a source.

    Args:
        source: a timm name (`resnet18.a1_in1k`), a Hub id (`user/repo`, `hf-hub:user/repo`, either with `@revision`),
            a local folder of timm or transformers, a checkpoint file, an `nn.Module`, or a [`SourceReference`] (or its
            fields) that says more.
        architecture: timm name of the network, for sources that do not say it (files, bare modules).
        hub: of `snapshot_download`: `token`, `cache_dir`, `local_files_only`, ...

    Returns:
        The tensors and what is known of the network.

    Raises:
        SourceNotFoundError: nothing answers to this name.
        CorruptSourceError: a file that cannot be read, or is of a format that nobody reads.
        UnsafePickleError: a file whose content would have to run.
    """
    if isinstance(source, nn.Module):
        return read(source, SourceReference("memory", "memory", architecture=architecture))
    reference = resolve_reference(source, architecture, **hub)
    if reference.loader == "memory":
        raise SourceNotFoundError(
            f"Source {reference.id!r} was a module in memory and was not saved. Pass it again: "
            "from_pretrained(..., merging=True, sources=[...])."
        )
    return read(_fetched(reference, **hub), reference)


def read(where: "Path | nn.Module", reference: SourceReference, weights: bool = True) -> LoadedSource:
    """Read what lies at a place on this machine, by the reader of its format.

    Args:
        where: a file, a folder, or a network.
        reference: what the user said of it.
        weights: `False` reads names, shapes and dtypes alone: tensors on the meta device.
    """
    if isinstance(where, Path) and not where.exists():
        raise SourceNotFoundError(f"Source {reference.id!r}: no such file or folder (looked at {where.absolute()}).")
    return with_stated(read_place(Place.of(where), reference, weights))


def with_stated(loaded: LoadedSource) -> LoadedSource:
    """The same with what the user stated before what the source states, and timm's config for bare weights."""
    reference, config = loaded.reference, loaded.network_config
    if reference.loader == "file":
        config = file_config(reference.architecture, loaded.tensors)
    return dataclasses.replace(loaded, network_config=config, input=reference.input or loaded.input)


def local_path(reference: SourceReference) -> Path:
    """Where a reference to this machine leads."""
    folder = Path(reference.id).expanduser()
    return folder / reference.file if reference.file else folder


def _named_by(file: Path) -> list[str]:
    """The files beside it that an index, or a `model.json` of TensorFlow.js, names; its reader checks the rest."""
    if file.suffix != ".json":
        return []
    stated = read_json(file)
    shards, groups = stated.get("weight_map"), stated.get("weightsManifest")
    names = list(shards.values()) if isinstance(shards, dict) else []
    for group in groups if isinstance(groups, list) else []:
        paths = group.get("paths") if isinstance(group, dict) else None
        names += paths if isinstance(paths, list) else []
    return [n for n in dict.fromkeys(map(str, names)) if PurePosixPath(n).name == n and n not in ("", ".", "..")]


def _fetched(reference: SourceReference, **hub: Any) -> Path:
    if not reference.revision:
        return local_path(reference)
    if reference.file:
        file = fetch_file(reference.id, reference.file, reference.revision, **hub)
        for name in _named_by(file):
            fetch_file(reference.id, str(PurePosixPath(reference.file).with_name(name)), reference.revision, **hub)
        return file
    return fetch_source(reference.id, reference.revision, **hub)
