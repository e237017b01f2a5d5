"""The Hub: repositories come down at one revision, exports go up in one commit."""

from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ..errors import CorruptSourceError, SourceNotFoundError


# A source's weights, whichever of these a repository has first.
WEIGHTS = (
    ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"),
    ("open_clip_model.safetensors",),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
    ("open_clip_pytorch_model.bin",),
)

DESCRIPTIONS = ("config.json", "preprocessor_config.json", "README.md")


def weights_among(files: Collection[str], source: str) -> str:
    """The weights file of a folder or repository.

    Args:
        files: names in it.
        source: how errors call it.

    Raises:
        CorruptSourceError: none is named as timm and transformers name theirs.
    """
    for names in WEIGHTS:
        for name in names:
            if name in files:
                return name
    raise CorruptSourceError(
        f"Source {source!r} holds no weights under the names of timm and transformers "
        f"({', '.join(names[0] for names in WEIGHTS)}). Name its file and architecture: "
        "{'id': ..., 'file': ..., 'architecture': ...}."
    )


def fetch_source(name: str, revision: str, **hub: Any) -> Path:
    """Download what describes a source, and one set of its weights.

    Args:
        name: Hub id.
        revision: commit sha, branch or tag.
        hub: of `snapshot_download`: `token`, `cache_dir`, `local_files_only`, ...

    Returns:
        The folder in the cache.

    Raises:
        SourceNotFoundError: it cannot be read, or holds no weights under the names of timm and transformers.
    """
    for weights in WEIGHTS:
        folder = fetch_files(name, revision=revision, allow_patterns=[*DESCRIPTIONS, *weights], **hub)
        if any(fnmatch(file.name, pattern) for file in folder.iterdir() for pattern in weights):
            return folder
    raise SourceNotFoundError(
        f"Source {name!r} at {revision} holds none of {', '.join(names[0] for names in WEIGHTS)} (or the "
        "cache, where the Hub is out of reach). "
        "Download its weights file and name that, with architecture='...'."
    )


def fetch_files(name: str, **hub: Any) -> Path:
    """`snapshot_download` with errors that name the repository and the way out.

    Args:
        name: Hub id.
        hub: of `snapshot_download`.

    Returns:
        The folder in the cache.

    Raises:
        SourceNotFoundError: it cannot be read.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, **hub))
    except Exception as error:  # of the client, its HTTP library (which has changed its name) or the system
        raise unreachable(name, error) from error


def fetch_file(name: str, file: str, revision: str, **hub: Any) -> Path:
    """`hf_hub_download` with errors that name the repository and the way out.

    Args:
        name: Hub id.
        file: path in the repository.
        revision: commit sha.
        hub: of `hf_hub_download`.

    Returns:
        Its path in the cache.

    Raises:
        SourceNotFoundError: it cannot be read.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, file, revision=revision, **hub))
    except Exception as error:  # likewise
        raise unreachable(name, error) from error


def commit_of(name: str, revision: str | None, file: str, **hub: Any) -> str:
    """The commit that a branch or tag is at now; out of reach of the Hub, the one in the cache.

    Args:
        name: Hub id.
        revision: branch, tag or sha; the default branch by default.
        file: path in the repository, to look for in the cache.
        hub: of `hf_hub_download`.

    Raises:
        SourceNotFoundError: neither answers.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache

    cached = try_to_load_from_cache(name, file, cache_dir=hub.get("cache_dir"), revision=revision)
    try:
        return str(HfApi(token=hub.get("token")).model_info(name, revision=revision).sha)
    except Exception as error:  # likewise
        if isinstance(cached, str):
            parts = Path(cached).parts
            return parts[parts.index("snapshots") + 1]
        raise unreachable(name, error) from error


def unreachable(name: str, error: Exception) -> SourceNotFoundError:
    """What a user can do about a repository that cannot be read.

    Args:
        name: Hub id, as the user wrote it.
        error: what the client raised.
    """
    from huggingface_hub import errors

    kinds: list[tuple[Any, str]] = [
        (errors.GatedRepoError, "is gated. Accept its terms on its page, then `hf auth login` or pass token=..."),
        (
            errors.RepositoryNotFoundError,
            "is not there (removed, renamed?), or it is private: `hf auth login` or pass token=...",
        ),
        (errors.RevisionNotFoundError, "does not have this revision."),
        (errors.HFValidationError, "is no name that a repository can have."),
        (errors.EntryNotFoundError, "is not in the cache and the Hub cannot be reached, or it lacks this file."),
    ]
    way_out = next((text for kind, text in kinds if isinstance(error, kind)), "could not be read from the Hub.")
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return SourceNotFoundError(f"Source {name!r} {way_out} ({type(error).__name__}: {first_line})")
