"""One reader a kind of source: timm, transformers, a file, a module in memory."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import CorruptSourceError, SourceNotFoundError
from ..networks.preprocessing import processor_input
from ..networks.timm_config import file_config, timm_config, timm_input, with_channels
from .checkpoint_file import check_folder, read_checkpoint, read_json
from .hub import fetch_file, fetch_source
from .reference import LoadedSource, SourceReference


logger = logging.getLogger(__name__)


def _load_from(reference: SourceReference, **hub: Any) -> LoadedSource:
    if reference.loader == "file":
        tensors = read_checkpoint(find_weights(reference, **hub))
        return LoadedSource(reference, tensors, file_config(reference.architecture, tensors))
    folder = fetch_source(reference.id, reference.revision, **hub) if reference.revision else Path(reference.id)
    if not folder.is_dir():
        raise SourceNotFoundError(f"Source {reference.id!r}: no such folder (looked at {folder.absolute()}).")
    check_folder(folder)
    reference = dataclasses.replace(reference, license=reference.license or read_license(folder))
    return (_load_timm if reference.loader == "timm" else _load_transformers)(reference, folder)


def find_weights(reference: SourceReference, **hub: Any) -> str:
    """Path of the weights file of a `file` reference; one on the Hub is downloaded."""
    if reference.revision and reference.file:
        return str(fetch_file(reference.id, reference.file, reference.revision, **hub))
    return str(Path(reference.id) / reference.file) if reference.file else reference.id


def read_card(folder: Path) -> Any:
    """What the metadata of a model's card says (`get`); nothing where there is no readable card."""
    from huggingface_hub import ModelCard

    try:
        return ModelCard.load(folder / "README.md", ignore_metadata_errors=True).data
    except (OSError, ValueError):
        logger.debug("%s has no readable card", folder)
        return {}


def read_license(folder: Path) -> str | None:
    """The licence that a model's card or timm config states, as the Hub calls it."""
    stated = read_card(folder).get("license")
    stated = stated or (read_json(folder / "config.json").get("pretrained_cfg") or {}).get("license")
    return stated if isinstance(stated, str) else None


def _load_timm(reference: SourceReference, folder: Path) -> LoadedSource:
    import timm

    try:
        model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except Exception as error:  # whatever timm's builders, safetensors or torch raise on broken files
        raise CorruptSourceError(f"Source {reference.id!r}: timm cannot load it ({error}).") from error
    architecture = model.pretrained_cfg["architecture"]
    config = timm_config(architecture, model.pretrained_cfg, read_json(folder / "config.json").get("model_args"))
    reference = dataclasses.replace(reference, architecture=architecture)
    return LoadedSource(reference, model.state_dict(), config, input=timm_input(config))


def _load_transformers(reference: SourceReference, folder: Path) -> LoadedSource:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    try:
        model, info = AutoModelForImageClassification.from_pretrained(
            folder, output_loading_info=True, dtype=torch.float32
        )
    except Exception as error:  # likewise
        raise CorruptSourceError(f"Source {reference.id!r}: transformers cannot load it ({error}).") from error
    missing = [name for name in info["missing_keys"] if name.startswith(f"{model.base_model_prefix}.")]
    if missing:
        raise CorruptSourceError(
            f"Source {reference.id!r}: {len(missing)} tensors of its backbone are not in the file, {missing[0]} "
            "first; transformers would fill them with random numbers."
        )
    try:
        processor = AutoImageProcessor.from_pretrained(folder)
    except (OSError, ValueError):
        processor = None
    config = model.config.to_dict()
    return LoadedSource(reference, model.state_dict(), config, processor, input=processor_input(processor))


def _load_module(module: nn.Module, architecture: str | None) -> LoadedSource:
    config: Any = getattr(module, "config", None)
    network_config = None
    if hasattr(config, "model_type"):
        network_config = config.to_dict()
    elif isinstance(cfg := getattr(module, "pretrained_cfg", None), dict) and cfg.get("architecture"):
        network_config = _timm_module_config(module, cfg)
    elif architecture:
        network_config = timm_config(architecture)
    name = (network_config or {}).get("architecture") or architecture
    reference = SourceReference(f"memory:{type(module).__name__}", "memory", architecture=name)
    stated = timm_input(network_config) if network_config and hasattr(module, "pretrained_cfg") else None
    return LoadedSource(reference, module.state_dict(), network_config, input=stated, module=module)


def _timm_module_config(module: nn.Module, cfg: dict[str, Any]) -> dict[str, Any]:
    """timm notes the network's name in it, but not the number of channels that it was made for."""
    stem = cfg["first_conv"] if isinstance(cfg["first_conv"], str) else cfg["first_conv"][0]
    return with_channels(timm_config(cfg["architecture"], cfg), module.get_parameter(f"{stem}.weight").shape[1])
