"""The form to train on, which a `checkpoint-*` folder holds: tensors by the model's own names, written once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ..configuration_medmerge import MedMergeConfig


WEIGHTS = "model.safetensors"

MERGE_STATE = "medmerge/state.safetensors"


def save_checkpoint(
    folder: Path,
    tensors: Mapping[str, Tensor],
    config: MedMergeConfig,
    processor: Any,
    merge_state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write what training goes on from: nothing is drawn, rendered or read back.

    Args:
        folder: made if it is not there.
        tensors: of the model's state dict; of a merge without what comes from its sources.
        config: of the model.
        processor: its image processor.
        merge_state: once collapsed, how the merge stage ended.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config.to_json_file(folder / "config.json")
    save_processor(processor, folder)
    if merge_state:
        save_tensors(merge_state, folder / MERGE_STATE)
    save_tensors(tensors, folder / WEIGHTS)


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write tensors as they are, in whatever layout they lie in memory."""
    file.parent.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata={"format": "pt"})


def save_processor(processor: Any, folder: Path) -> None:
    """Write the image processor of a transformers-native network; timm's lies in config.json."""
    if processor is not None and not hasattr(processor, "data_config"):
        processor.save_pretrained(folder)
