"""A folder that transformers wrote: `config.json` with a `model_type`, and weights."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from ...errors import CorruptSourceError
from ...networks.preprocessing import processor_input
from ..card import read_license
from ..place import Place
from ..reference import LoadedSource, SourceReference
from .folder import as_stored, check_folder, folder_headers
from .registry import reader


def _is_transformers(place: Place) -> bool:
    return "model_type" in place.config and "architecture" not in place.config


@reader("a folder of transformers", _is_transformers)
def read_transformers(place: Place, reference: SourceReference, weights: bool = True) -> LoadedSource:
    """Let transformers load the weights: names on disk are not those in memory."""
    folder = place.path
    reference = dataclasses.replace(reference, license=reference.license or read_license(folder))
    processor = _processor(folder)
    if not weights:
        tensors, metadata = folder_headers(place)
        stated = processor_input(processor)
        return LoadedSource(reference, tensors, place.config, processor, input=stated, metadata=metadata)
    check_folder(folder)
    model = _transformers_model(reference, folder)
    tensors = as_stored(model.state_dict(), place)
    return LoadedSource(reference, tensors, model.config.to_dict(), processor, input=processor_input(processor))


def _processor(folder: Path) -> Any:
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError):
        return None


def _transformers_model(reference: SourceReference, folder: Path) -> Any:
    from transformers import AutoModelForImageClassification

    try:
        model, info = AutoModelForImageClassification.from_pretrained(
            folder, output_loading_info=True, dtype=torch.float32, trust_remote_code=False
        )
    except Exception as error:  # whatever transformers, safetensors or torch raise on broken files
        raise CorruptSourceError(f"Source {reference.id!r}: transformers cannot load it ({error}).") from error
    missing = [name for name in info["missing_keys"] if name.startswith(f"{model.base_model_prefix}.")]
    if missing:
        raise CorruptSourceError(
            f"Source {reference.id!r}: {len(missing)} tensors of its backbone are not in the file, {missing[0]} "
            "first; transformers would fill them with random numbers."
        )
    return model
