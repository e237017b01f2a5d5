"""A folder that timm wrote: `config.json` with an `architecture`, and weights."""

import dataclasses
from typing import Any

from ...errors import CorruptSourceError
from ...networks.timm_config import timm_config, timm_input
from ..place import Place, read_license
from ..reference import LoadedSource, SourceReference
from .folder import as_stored, check_folder, folder_headers, folder_weights
from .registry import reader


def _is_timm(place: Place) -> bool:
    return "architecture" in place.config


@reader("a folder of timm", _is_timm)
def read_timm(place: Place, reference: SourceReference, weights: bool = True) -> LoadedSource:
    """Let timm load the weights, so that it may rename what it renames."""
    folder, stated = place.path, place.config
    reference = dataclasses.replace(reference, license=reference.license or read_license(folder))
    config = timm_config(stated["architecture"], stated.get("pretrained_cfg"), stated.get("model_args"))
    if not weights:
        tensors, metadata = folder_headers(place)
    else:
        check_folder(folder)
        model, metadata = _timm_model(reference, folder), {}
        if model is None:
            tensors, metadata = folder_weights(place)
        else:
            tensors = as_stored(model.state_dict(), place)
            config = timm_config(model.pretrained_cfg["architecture"], model.pretrained_cfg, stated.get("model_args"))
    reference = dataclasses.replace(reference, architecture=config["architecture"])
    return LoadedSource(reference, tensors, config, input=timm_input(config), metadata=metadata)


def _timm_model(reference: SourceReference, folder: Any) -> Any:
    """timm's network; `None` where the tensors do not fit it: conversion says why, as inspection does."""
    import timm

    try:
        return timm.create_model(f"local-dir:{folder}", pretrained=True)
    except RuntimeError as error:
        if "loading state_dict" in str(error):
            return None
        raise CorruptSourceError(f"Source {reference.id!r}: timm cannot load it ({error}).") from error
    except Exception as error:  # whatever timm's builders, safetensors or torch raise on broken files
        raise CorruptSourceError(f"Source {reference.id!r}: timm cannot load it ({error}).") from error
