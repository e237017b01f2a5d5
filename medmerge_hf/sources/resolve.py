"""From what a user writes to what answers to it: a folder, a file, a repository at one commit."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import SourceNotFoundError
from ..networks.timm_config import similar_names
from .hub import commit_of, unreachable
from .place import TENSORFLOW
from .readers.registry import formats
from .reference import Loader, SourceReference


def resolve_reference(
    source: "str | Mapping[str, Any] | SourceReference", architecture: str | None = None, **hub: Any
) -> SourceReference:
    """Find out what a source names and, on the Hub, which commit it is now.

    Args:
        source: see [`load_source`].
        architecture: timm name of the network, for files that do not say it.
        hub: of `hf_hub_download`.

    Returns:
        The reference, its loader known and its revision pinned.

    Raises:
        SourceNotFoundError: nothing answers to this name.
    """
    reference = SourceReference.parse(source)
    if reference.loader == "memory" or (reference.loader and (reference.sha256 or _is_sha(reference))):
        return reference  # found out before
    path = Path(reference.id.removeprefix("local-dir:")).expanduser()
    as_file: dict[str, Any] = {"loader": "file", "architecture": reference.architecture or architecture}
    if path.is_dir() and not reference.file and (path / "model.json").is_file():
        reference = dataclasses.replace(reference, file="model.json")  # TensorFlow.js
    if path.is_dir():
        found: dict[str, Any] = (
            as_file if reference.file else {"loader": _library_of(path / "config.json", reference.id)}
        )
        return dataclasses.replace(reference, id=str(path), **found)
    if path.is_file():
        return dataclasses.replace(reference, id=str(path), **as_file)
    known = tuple(suffix for known in formats() for suffix in known.suffixes)
    if path.name.endswith(known) or reference.id.startswith((".", "/", "~", "local-dir:")):
        raise SourceNotFoundError(f"Source {reference.id!r}: no such file or folder (looked at {path.absolute()}).")
    return _resolve_on_hub(reference, as_file, **hub)


def _is_sha(reference: SourceReference) -> bool:
    return re.fullmatch(r"[0-9a-f]{40}", reference.revision or "") is not None


def _library_of(config_file: Path, source: str) -> Loader:
    """timm writes `architecture` into its config.json, transformers `model_type`."""
    if (config_file.parent / "saved_model.pb").is_file():
        raise SourceNotFoundError(
            f"Source {source!r} is a SavedModel of TensorFlow: a graph, whose layers have no names. {TENSORFLOW}"
        )
    try:
        config = json.loads(config_file.read_text())
    except (OSError, ValueError) as error:
        raise SourceNotFoundError(
            f"Source {source!r}: a folder or repository needs a config.json written by timm or transformers "
            f"({error}). Name the weights file itself and its architecture instead."
        ) from error
    if "architecture" in config:
        return "timm"
    if "model_type" in config:
        return "transformers"
    raise SourceNotFoundError(
        f"Source {source!r}: its config.json names neither a timm architecture nor a model_type."
    )


def _resolve_on_hub(reference: SourceReference, as_file: dict[str, Any], **hub: Any) -> SourceReference:
    import timm
    from huggingface_hub import hf_hub_download

    source = reference.id
    name, _, revision = source.removeprefix("hf-hub:").partition("@")
    revision = reference.revision or revision
    if "/" not in name:
        try:
            cfg = timm.models.get_pretrained_cfg(name, allow_unregistered=False)
        except RuntimeError:  # no such network, or no such weights of it
            cfg = None
        if cfg is None or not cfg.hf_hub_id:
            raise SourceNotFoundError(
                f"Source {source!r} is no file, no folder, no timm network with pretrained weights and no Hub id "
                f"(user/name).{similar_names(name)}"
            )
        name = cfg.hf_hub_id
    if reference.file:
        commit = commit_of(name, revision or None, reference.file, **hub)
        return dataclasses.replace(reference, id=name, revision=commit, **as_file)
    try:
        config_file = Path(hf_hub_download(name, "config.json", revision=revision or None, **hub))
    except Exception as error:  # of the client, its HTTP library or the system
        raise unreachable(source, error) from error
    # The cache keeps a file under snapshots/<commit sha>/, online and offline alike.
    library = _library_of(config_file, source)
    return dataclasses.replace(reference, id=name, loader=library, revision=config_file.parent.name)
