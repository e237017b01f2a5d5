"""From a reference (Hub id, folder, file, module in memory) to the tensors of a checkpoint."""

import dataclasses
from typing import Any

from torch import nn

from ..errors import SourceNotFoundError
from .readers import _load_from, _load_module
from .reference import LoadedSource, Source
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
        CorruptSourceError: a file that cannot be read.
        UnsafePickleError: a pickle that would execute code.
    """
    if isinstance(source, nn.Module):
        return _load_module(source, architecture)
    reference = resolve_reference(source, architecture, **hub)
    if reference.loader == "memory":
        raise SourceNotFoundError(
            f"Source {reference.id!r} was a module in memory and was not saved. Pass it again: "
            "from_pretrained(..., merging=True, sources=[...])."
        )
    loaded = _load_from(reference, **hub)
    return dataclasses.replace(loaded, input=reference.input or loaded.input)
