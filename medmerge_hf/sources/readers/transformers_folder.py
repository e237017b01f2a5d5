"""A folder that transformers wrote: `config.json` with a `model_type`, and weights."""

import dataclasses
from pathlib import Path
from typing import Any

from ...networks.preprocessing import processor_input
from ..place import Place, read_license
from ..reference import LoadedSource, SourceReference
from .folder import folder_headers, folder_weights
from .registry import reader


def _is_transformers(place: Place) -> bool:
    return "model_type" in place.config and "architecture" not in place.config


@reader("a folder of transformers", _is_transformers)
def read_transformers(place: Place, reference: SourceReference, weights: bool = True) -> LoadedSource:
    """Take the weights by their names on disk; conversion knows which names transformers gives them in memory."""
    folder = place.path
    reference = dataclasses.replace(reference, license=reference.license or read_license(folder))
    tensors, metadata = folder_weights(place) if weights else folder_headers(place)
    processor = _processor(folder)
    stated = processor_input(processor)
    return LoadedSource(reference, tensors, place.config, processor, input=stated, metadata=metadata)


def _processor(folder: Path) -> Any:
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError):
        return None
