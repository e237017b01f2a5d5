"""From a reference (Hub id, folder, file, module in memory) to the tensors of a checkpoint."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoints import check_folder, read_checkpoint, read_json
from .errors import ChangedSourceError, CorruptSourceError, DuplicateSourceError, SourceNotFoundError
from .harmonization import Harmonised, fingerprint
from .hub import fetch_file, fetch_source
from .references import InputConvention, SourceReference
from .resolution import resolve_reference
from .timm_configs import file_config, timm_config, timm_input, with_channels


logger = logging.getLogger(__name__)


@dataclasses.dataclass
class LoadedSource:
    """A checkpoint in memory.

    Args:
        reference: where it came from.
        tensors: its state dict, under its own names.
        network_config: dict of the plain transformers config (`timm_wrapper` for timm networks), where known.
        image_processor: of transformers-native checkpoints that carry one.
        input: what images it expects, where it or its reference says so.
        module: the network itself, of sources in memory.
    """

    reference: SourceReference
    tensors: Mapping[str, Tensor]
    network_config: dict[str, Any] | None = None
    image_processor: Any = None
    input: InputConvention | None = None
    module: nn.Module | None = None


# What a source may be given as.
Source = str | Mapping[str, Any] | SourceReference | nn.Module


def load_source(source: Source, architecture: str | None = None, **hub: Any) -> LoadedSource:
    """Read a source.

    Args:
        source: a timm name (`resnet18.a1_in1k`), a Hub id (`user/repo`, `hf-hub:user/repo`, either with `@revision`),
            a local folder of timm or transformers, a checkpoint file, an `nn.Module`, or a [`SourceReference`] (or its
            fields) that says more.
        architecture: timm name of the network, for sources that do not say it (files, bare modules).
        hub: of `snapshot_download`: `token`, `cache_dir`, `local_files_only`, ...

    Returns:
        The tensors and what is known of the network.

    Raises:
        SourceNotFoundError: nothing answers to this name.
        CorruptSourceError: a file that cannot be read.
        UnsafePickleError: a pickle that would execute code.
    """
    if isinstance(source, nn.Module):
        return _load_module(source, architecture)
    reference = resolve_reference(source, architecture, **hub)
    if reference.loader == "memory":
        raise SourceNotFoundError(
            f"Source {reference.id!r} was a module in memory and was not saved. Pass it again: "
            "from_pretrained(..., merging=True, sources=[...])."
        )
    loaded = _load_from(reference, **hub)
    return dataclasses.replace(loaded, input=reference.input or loaded.input)


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


def processor_input(processor: Any) -> InputConvention | None:
    """Of a transformers image processor."""
    if getattr(processor, "image_mean", None) is None:
        return None
    high = 1 / processor.rescale_factor / 255 if getattr(processor, "do_rescale", True) else 1 / 255
    if not getattr(processor, "do_normalize", True):
        return InputConvention(std=(high,))
    scaled = [[value * high for value in values] for values in (processor.image_mean, processor.image_std)]
    return InputConvention(mean=scaled[0], std=scaled[1])


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


def identify(
    references: Sequence[SourceReference], harmonised: Sequence[Harmonised], known: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Describe the sources of a merge, by what their weights are.

    Args:
        references: where they come from.
        harmonised: their weights under the anchor's names.
        known: an earlier answer that they must agree with, or nothing. What it says of a Hub repository stays, though
            the same weights may come from elsewhere now.

    Returns:
        One dict a source, for the config.

    Raises:
        DuplicateSourceError: two sources hold the same weights.
        ChangedSourceError: a source holds other weights than it did.
    """
    prints = [fingerprint(source.tensors) for source in harmonised]
    for index, print_ in enumerate(prints):
        if print_ in prints[:index]:
            first = prints.index(print_)
            raise DuplicateSourceError(
                f"Sources {first} ({references[first].id!r}) and {index} ({references[index].id!r}) hold the same "
                "weights. Name each source once."
            )
    for before, reference, print_ in zip(known, references, prints, strict=False):
        if before["sha256"] != print_:
            raise ChangedSourceError(
                f"Source {reference.id!r} is not the one that was merged: its weights have sha256 {print_[:12]} now, "
                f"{before['sha256'][:12]} when it was merged. Name where those weights are: sources=[...]."
            )
    described = []
    for index, (reference, source) in enumerate(zip(references, harmonised, strict=True)):
        found = dataclasses.replace(reference, sha256=prints[index], notes=tuple(source.notes))
        on_hub = index < len(known) and known[index]["revision"]
        described.append(dict(known[index]) if on_hub else found.to_dict())
    return described
