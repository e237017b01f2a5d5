"""What a user may ask of an export, checked before anything is written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import SettingsError
from ..networks.backbone import is_timm


INDEX = "model.safetensors.index.json"

# Keywords of an upload.
PUSH_OPTIONS = (
    *("repo_id", "private", "revision", "create_pr", "token", "commit_message", "commit_description", "tags"),
)

# Of `save_pretrained`, beside those that say where an upload goes.
KNOWN = ("is_main_process", "state_dict", "collapse", "push_to_hub", "dtype", "max_shard_size")


def export_dtype(dtype: "torch.dtype | str") -> torch.dtype:
    """A dtype that exports are written in, from itself or its name.

    Raises:
        SettingsError: it is none of them.

    Example:
        >>> export_dtype("bfloat16")
        torch.bfloat16
    """
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in (torch.float32, torch.bfloat16, torch.float16):
        raise SettingsError(f"dtype={dtype!r} is not one of float32, bfloat16, float16.")
    return found


def known_options(
    options: Mapping[str, Any], collapse: bool, push_to_hub: bool = False, dtype: Any = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `save_pretrained` acts on, or an error.

    Args:
        options: its further keywords.
        collapse: whether an export is written.
        push_to_hub: whether it is uploaded.
        dtype: that was asked for.

    Returns:
        Those of the upload, and `max_shard_size` where it is given.

    Raises:
        SettingsError: an unknown one, a variant, or one that the form to train on does not have.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if variant := given.get("variant"):
        raise SettingsError(
            f"variant={variant!r} gives the weights a name that timm and pipelines do not look for. Leave it out, and "
            "write each dtype (dtype='float16') into a folder, or a branch (revision=), of its own."
        )
    push = {name: given.pop(name) for name in PUSH_OPTIONS if name in given}
    if unknown := sorted(given.keys() - {"max_shard_size"}):
        raise SettingsError(
            f"save_pretrained knows no {', '.join(unknown)}; it takes {', '.join(KNOWN)}, and with push_to_hub=True "
            f"{', '.join(PUSH_OPTIONS)}. Weights are always safetensors."
        )
    if not collapse:
        _check_form_to_train_on(given if dtype is None else {**given, "dtype": dtype}, push_to_hub)
    return push, given


def _check_form_to_train_on(given: Mapping[str, Any], push_to_hub: bool) -> None:
    if push_to_hub:
        raise SettingsError("The form to train on stays on this machine; only the export goes to the Hub.")
    if given:
        raise SettingsError(
            "collapse=False writes what training goes on from, in one file and as it is: leave out "
            f"{' and '.join(given)}."
        )


def refuse_shards(network: Any, folder: Path, max_shard_size: int | str) -> None:
    """Refuse weights in several files where timm, which reads one, is to load them too.

    Args:
        network: that was saved.
        folder: where, not yet in its place.
        max_shard_size: that was asked for.

    Raises:
        SettingsError: they are split.
    """
    if is_timm(network) and (folder / INDEX).is_file():
        files = len(list(folder.glob("model-*.safetensors")))
        size = sum(file.stat().st_size for file in folder.glob("model-*.safetensors"))
        raise SettingsError(
            f"max_shard_size={max_shard_size!r} splits the weights ({size / 1e6:.1f} MB) into {files} files, and timm "
            "reads one alone; nothing was saved. Leave it out, or above that size."
        )
