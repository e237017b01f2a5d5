"""From a reference (Hub id, folder, file, module in memory) to the tensors of a checkpoint."""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .checkpoints import PICKLE_SUFFIXES, SAFE_SUFFIXES, read_checkpoint, read_json
from .errors import (
    ChangedSourceError,
    CorruptSourceError,
    DuplicateSourceError,
    SettingsError,
    SourceNotFoundError,
)
from .harmonization import Harmonised, fingerprint
from .hub import fetch_source, unreachable


logger = logging.getLogger(__name__)

Loader = Literal["timm", "transformers", "file", "memory"]
# Of timm's pretrained_cfg, what describes the network and its input.
NETWORK_KEYS = (
    *("input_size", "fixed_input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode", "pool_size"),
    *("first_conv", "classifier"),
)


@dataclasses.dataclass(frozen=True)
class SourceReference:
    """Where a source comes from, so that a merge can be repeated from its config alone.

    Args:
        id: Hub id, local folder, checkpoint file, or a name for a module in memory.
        loader: what reads it: `timm`, `transformers`, `file` (weights alone) or `memory`.
        revision: commit sha on the Hub; `None` for anything local.
        architecture: timm name of the network, for loaders that know it.
        sha256: of the harmonised weights ([`harmonization.fingerprint`]), once they were read.
        license: as the Hub calls it (`apache-2.0`, ...); read off the source's card or config where it is not given.
        notes: what was done to bring it under the anchor's names.
    """

    id: str
    loader: Loader
    revision: str | None = None
    architecture: str | None = None
    sha256: str | None = None
    license: str | None = None
    notes: Sequence[str] = ()


@dataclasses.dataclass
class LoadedSource:
    """A checkpoint in memory.

    Args:
        reference: where it came from.
        tensors: its state dict, under its own names.
        network_config: dict of the plain transformers config (`timm_wrapper` for timm networks), where known.
        image_processor: of transformers-native checkpoints that carry one.
    """

    reference: SourceReference
    tensors: Mapping[str, Tensor]
    network_config: dict[str, Any] | None = None
    image_processor: Any = None


def load_source(
    source: "str | SourceReference | nn.Module", architecture: str | None = None, **hub: Any
) -> LoadedSource:
    """Read a source.

    Args:
        source: a timm name (`resnet18.a1_in1k`), a Hub id (`user/repo`, `hf-hub:user/repo`, either with `@revision`),
            a local folder of timm or transformers, a checkpoint file, an `nn.Module`, or a reference made earlier.
        architecture: timm name of the network, needed where the source does not say it (files, bare modules).
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
    reference = source if isinstance(source, SourceReference) else resolve_reference(source, architecture, **hub)
    if reference.loader == "memory":
        raise SourceNotFoundError(
            f"Source {reference.id!r} was a module in memory and was not saved. Pass it again: "
            "from_pretrained(..., merging=True, sources=[...])."
        )
    if reference.loader == "file":
        config = timm_config(reference.architecture) if reference.architecture else None
        return LoadedSource(reference, read_checkpoint(reference.id), config)
    folder = fetch_source(reference.id, reference.revision, **hub) if reference.revision else Path(reference.id)
    if not folder.is_dir():
        raise SourceNotFoundError(f"Source {reference.id!r}: no such folder (looked at {folder.absolute()}).")
    reference = dataclasses.replace(reference, license=reference.license or read_license(folder))
    return (_load_timm if reference.loader == "timm" else _load_transformers)(reference, folder)


def resolve_reference(source: str, architecture: str | None = None, **hub: Any) -> SourceReference:
    """Find out what a string names and, on the Hub, which commit it is now.

    Args:
        source: see [`load_source`].
        architecture: timm name of the network, for files.
        hub: of `hf_hub_download`.

    Returns:
        The reference, its revision pinned.

    Raises:
        SourceNotFoundError: nothing answers to this name.
    """
    path = Path(source.removeprefix("local-dir:")).expanduser()
    if path.is_dir():
        return SourceReference(str(path), _library_of(path / "config.json", source))
    if path.is_file():
        return SourceReference(str(path), "file", architecture=architecture)
    if path.suffix in SAFE_SUFFIXES + PICKLE_SUFFIXES or source.startswith((".", "/", "~", "local-dir:")):
        raise SourceNotFoundError(f"Source {source!r}: no such file or folder (looked at {path.absolute()}).")
    return _resolve_on_hub(source, **hub)


def _library_of(config_file: Path, source: str) -> Loader:
    """timm writes `architecture` into its config.json, transformers `model_type`."""
    try:
        config = json.loads(config_file.read_text())
    except (OSError, ValueError) as error:
        raise SourceNotFoundError(
            f"Source {source!r}: a folder or repository needs a config.json written by timm or transformers "
            f"({error}). Name the weights file itself and its architecture instead."
        ) from error
    if "architecture" in config:
        return "timm"
    if "model_type" in config:
        return "transformers"
    raise SourceNotFoundError(
        f"Source {source!r}: its config.json names neither a timm architecture nor a model_type."
    )


def _resolve_on_hub(source: str, **hub: Any) -> SourceReference:
    import timm
    from huggingface_hub import hf_hub_download

    name, _, revision = source.removeprefix("hf-hub:").partition("@")
    if "/" not in name:
        try:
            cfg = timm.models.get_pretrained_cfg(name, allow_unregistered=False)
        except RuntimeError:  # no such network, or no such weights of it
            cfg = None
        if cfg is None or not cfg.hf_hub_id:
            raise SourceNotFoundError(
                f"Source {source!r} is no file, no folder, no timm network with pretrained weights and no Hub id "
                f"(user/name).{_similar(name)}"
            )
        name = cfg.hf_hub_id
    try:
        config_file = Path(hf_hub_download(name, "config.json", revision=revision or None, **hub))
    except Exception as error:  # of the client, its HTTP library or the system
        raise unreachable(source, error) from error
    # The cache keeps a file under snapshots/<commit sha>/, online and offline alike.
    return SourceReference(name, _library_of(config_file, source), revision=config_file.parent.name)


def _similar(name: str) -> str:
    import timm

    names = timm.list_models(f"{name.split('.')[0]}*", pretrained=True)[:3]
    return f" Did you mean {', '.join(names)}?" if names else ""


def timm_config(
    architecture: str, cfg: dict[str, Any] | None = None, args: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The `timm_wrapper` config of a timm network.

    Args:
        architecture: timm name, e.g. `resnet18`.
        cfg: its pretrained_cfg (preprocessing, name of the head); by default timm's own for this architecture.
        args: keywords for `timm.create_model`.

    Returns:
        A dict for `TimmWrapperConfig.from_dict`, without number or names of labels.

    Raises:
        SettingsError: timm does not know the architecture.
    """
    import timm

    if not timm.is_model(architecture):
        raise SettingsError(f"timm {timm.__version__} knows no architecture {architecture!r}.{_similar(architecture)}")
    if cfg is None:
        cfg = timm.models.get_pretrained_cfg(architecture).to_dict()
    # num_classes belongs to the labels (with it in model_args transformers passes it twice and fails), tag and licence
    # to the weights. timm 1.0.31 fails on a model_args that is null.
    args = {key: value for key, value in (args or {}).items() if key != "num_classes"}
    cfg = {key: cfg[key] for key in NETWORK_KEYS if cfg.get(key) is not None}
    return {"model_type": "timm_wrapper", "architecture": architecture, "pretrained_cfg": cfg, "model_args": args}


def read_license(folder: Path) -> str | None:
    """The licence that a model's card or timm config states, as the Hub calls it."""
    from huggingface_hub import ModelCard

    stated: Any = None
    try:
        stated = ModelCard.load(folder / "README.md", ignore_metadata_errors=True).data.get("license")
    except (OSError, ValueError):
        logger.debug("%s has no readable card", folder)
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
    return LoadedSource(dataclasses.replace(reference, architecture=architecture), model.state_dict(), config)


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
    return LoadedSource(reference, model.state_dict(), model.config.to_dict(), processor)


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
    return LoadedSource(reference, module.state_dict(), network_config)


def _timm_module_config(module: nn.Module, cfg: dict[str, Any]) -> dict[str, Any]:
    """timm notes the network's name in it, but not the number of channels that it was made for."""
    stem = cfg["first_conv"] if isinstance(cfg["first_conv"], str) else cfg["first_conv"][0]
    channels = module.get_parameter(f"{stem}.weight").shape[1]
    _, *size = cfg["input_size"]
    cfg, args = {**cfg, "input_size": [channels, *size]}, {}
    if channels != len(cfg["mean"]):
        cfg |= {key: [sum(cfg[key]) / len(cfg[key])] * channels for key in ("mean", "std")}
    if channels != 3:
        args["in_chans"] = channels
    return timm_config(cfg["architecture"], cfg, args)


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
        found = dataclasses.replace(reference, sha256=prints[index], notes=list(source.notes))
        on_hub = index < len(known) and known[index]["revision"]
        described.append(dict(known[index]) if on_hub else dataclasses.asdict(found))
    return described
