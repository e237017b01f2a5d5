"""What a user may ask of an export and of loading one, checked before anything is written or read."""

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

# Keywords for the Hub, and those of them that hold for the sources too.
HUB = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")
HUB_OF_SOURCES = ("token", "cache_dir", "local_files_only")
# What transformers' auto classes and pipelines add; there is no code and no adapter to be loaded.
OF_AUTO_CLASSES = (
    *("adapter_kwargs", "code_revision", "trust_remote_code", "_commit_hash", "_from_auto", "_from_pipeline"),
)
KEYWORDS = ("merging", "sources", "dtype", "config", "variant", "output_loading_info", *HUB)


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


def refuse_adapters(network: Any) -> None:
    """Refuse a network in which PEFT put adapters in the places of layers: nobody could read it without them.

    Args:
        network: that is to be saved.

    Raises:
        SettingsError: there is one.
    """
    modules = network.named_modules()
    adapted = next((name for name, module in modules if type(module).__module__.startswith("peft.")), None)
    if adapted is not None:
        raise SettingsError(
            f"{adapted} carries a PEFT adapter, and an export is a plain network; nothing "
            "was saved. Save what peft's merge_and_unload() returns, or the adapter alone by the PEFT model's own "
            "save_pretrained."
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


def known_keywords(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Those for the Hub, without what auto classes add.

    Args:
        keywords: of `from_pretrained`, without those that it names itself.

    Raises:
        SettingsError: there is another.
    """
    known = {key: value for key, value in keywords.items() if key not in OF_AUTO_CLASSES}
    if unknown := sorted(known.keys() - set(HUB)):
        raise SettingsError(f"from_pretrained knows no {', '.join(unknown)}; it takes {', '.join(KEYWORDS)}.")
    return known


def check_wishes(dtype: torch.dtype | None, variant: str | None, merges: bool, checkpoint: bool) -> None:
    """Refuse what does not go with what is loaded.

    Args:
        dtype: that was asked for.
        variant: of the weights that was asked for.
        merges: whether the model is going to be merging.
        checkpoint: whether it is no export.

    Raises:
        SettingsError: it does not.
    """
    if merges and dtype not in (None, torch.float32):
        raise SettingsError("A merge learns in float32: leave dtype out, and train it with bf16=True instead.")
    if variant and (merges or checkpoint):
        raise SettingsError(f"variant={variant!r}: only the weights of an export can have one. Leave it out.")
