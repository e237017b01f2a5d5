"""Whether `medmerge/` in a folder still says what the weights beside it are."""

import hashlib
from pathlib import Path
from typing import Any

from ..configuration_medmerge import MERGE_CONFIG, MedMergeConfig
from ..errors import SettingsError, StateError
from ..networks.build import class_names
from .checkpoint import MERGE_STATE, WEIGHTS


# In the record of a config: sha256 of the tensors that it was exported with.
TENSORS_SHA256 = "tensors_sha256"


def tensors_sha256(folder: Path) -> str:
    """sha256 over the weights of an export, in the order of their files' names, and over its merge state.

    Args:
        folder: of the export.
    """
    digest = hashlib.sha256()
    weights = sorted([*folder.glob(WEIGHTS), *folder.glob("model-*-of-*.safetensors")])
    for file in [*weights, *folder.glob(MERGE_STATE)]:
        with file.open("rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def check_belonging(folder: Path, plain: Any, config: MedMergeConfig, name: str) -> None:
    """Refuse an export whose network was exchanged or trained on after `medmerge/` was written.

    Args:
        folder: of the export.
        plain: config of its network.
        config: of its merge.
        name: how the user calls it.

    Raises:
        StateError: the network has other classes or other weights than were exported.
    """
    exported = config.record.get(TENSORS_SHA256)
    if _names(plain) != _names(config):
        what = f"classes {_listed(plain)}, {MERGE_CONFIG} {_listed(config)}"
    elif exported and (found := tensors_sha256(folder)) != exported:
        what = f"tensors have sha256 {found[:12]}, {MERGE_CONFIG} notes {exported[:12]}"
    else:
        return
    raise StateError(
        f"{name!r} was changed after its export (its {what}): medmerge/ in it belongs to another network. "
        "AutoModelForImageClassification.from_pretrained loads it as the plain network that it is now, and "
        "MedMergeModel.from_sources takes it as a source; the merge loads from the export as it was."
    )


def check_given(given: MedMergeConfig, own: MedMergeConfig, name: str) -> None:
    """Refuse a config that was brought along and names other classes than those that were trained.

    Args:
        given: as `config=`, or made of keywords of an auto class (`num_labels`).
        own: of the folder.
        name: how the user calls it.

    Raises:
        SettingsError: they do.
    """
    if _names(given) != _names(own):
        raise SettingsError(
            f"{name!r} has the classes {_listed(own)}, and the config that was given {_listed(given)}: a head comes "
            "with its classes. For others name it as a source: MedMergeModel.from_sources([...], num_labels=...)."
        )


def _names(config: Any) -> dict[int, str]:
    return class_names(config.id2label)


def _listed(config: Any) -> str:
    names = [str(name) for name in _names(config).values()]
    return f"{', '.join(names[:4])}{', ...' if names[4:] else ''} ({len(names)})"
