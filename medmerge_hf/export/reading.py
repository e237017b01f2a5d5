"""From a saved folder or Hub repository back to what a model is made of: config, state, plain network, processor."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..configuration_medmerge import MERGE_CONFIG, MedMergeConfig
from ..errors import CorruptSourceError, SettingsError, SourceError, SourceNotFoundError, StateError
from ..merging.kernel_weights import KERNEL_WEIGHTS
from ..networks.build import build_network
from ..sources.hub import fetch_files
from ..sources.load import load_source
from ..sources.place import read_json
from ..sources.reference import LoadedSource, Source, SourceReference
from .checkpoint import MERGE_STATE, WEIGHTS
from .folder import export_dtype


EXPORT = [
    *("config.json", "preprocessor_config.json", "model*.safetensors", "model.safetensors.index.json"),
    *(MERGE_CONFIG, MERGE_STATE),
]
# Keywords for the Hub, and those of them that hold for the sources too.
HUB = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")
SHARED = ("token", "cache_dir", "local_files_only")
# What transformers' auto classes add; there is no code and no adapter to be loaded.
OF_AUTO_CLASSES = ("adapter_kwargs", "code_revision", "trust_remote_code")


@dataclasses.dataclass
class SavedModel:
    """What a folder holds of a model.

    Args:
        folder: on this machine.
        config: of the merge.
        state: the merge state: kernel weights, head and statistics; empty where nothing was merged.
        network: the plain network, of an export that is read as one.
        image_processor: of a transformers-native network; timm's follows from the config.
        name: what the user called it.
        hub: keywords that hold for its sources too.
        collapsed: whether it is an export or a checkpoint of fine-tuning, which need no sources.
    """

    folder: Path
    config: MedMergeConfig
    state: dict[str, Tensor]
    network: Any = None
    image_processor: Any = None
    name: str = ""
    hub: dict[str, Any] = dataclasses.field(default_factory=dict)
    collapsed: bool = False

    def load_sources(self, sources: Sequence[Source] | None = None) -> list[LoadedSource]:
        """The sources of the merge, anchor first.

        Args:
            sources: where they are now, if not where the config says.

        Raises:
            StateError: there are more or fewer of them than were merged.
        """
        known = [SourceReference.parse(source) for source in self.config.sources]
        if sources is not None and len(sources) != len(known):
            raise StateError(
                f"sources names {len(sources)}, the merge was made of {len(known)}: {[source.id for source in known]}."
            )
        wanted = zip(sources or known, known, strict=True)
        return [load_source(source, reference.architecture, **self.hub) for source, reference in wanted]

    def check(self, result: Any, from_sources: Sequence[str]) -> None:
        """Refuse a merge state that does not fit its config.

        Args:
            result: of `load_state_dict`.
            from_sources: names of what the state does not hold.
        """
        wrong = sorted({*result.unexpected_keys, *(set(result.missing_keys) - set(from_sources))})
        if wrong:
            raise CorruptSourceError(f"{self.folder}: the merge state does not fit its config ({wrong[0]} first).")

    @contextmanager
    def way_out(self) -> Iterator[None]:
        """Tell, where a source fails, that an export loads without its sources."""
        try:
            yield
        except SourceError as error:
            if not self.collapsed:
                raise
            raise type(error)(
                f"{error} The collapsed model itself still loads: from_pretrained({self.name!r})."
            ) from error


def read_saved(
    name: str,
    merging: bool,
    dtype: "torch.dtype | str | None" = None,
    config: MedMergeConfig | None = None,
    **hub: Any,
) -> SavedModel:
    """Read an export, or a checkpoint of either stage.

    Args:
        name: a folder or a Hub id.
        merging: read the merge state of an export instead of its network.
        dtype: of the network; by default as it was exported.
        config: instead of the one in the folder.
        hub: of `hf_hub_download`; what else transformers' auto classes hand on means nothing here.

    Returns:
        What it holds; `network` is `None` where the sources have to be attached.

    Raises:
        SettingsError: an unknown keyword, or a dtype for a merge.
        SourceError: the folder is not there, or broken.
        StateError: it was not written by this package, or holds no merge.
    """
    hub = {key: value for key, value in hub.items() if not key.startswith("_") and key not in OF_AUTO_CLASSES}
    if unknown := sorted(hub.keys() - set(HUB)):
        known = ("merging", "sources", "dtype", "config", *HUB)
        raise SettingsError(f"from_pretrained knows no {', '.join(unknown)}; it takes {', '.join(known)}.")
    folder = find_folder(name, **hub)
    shared = {key: hub[key] for key in SHARED if key in hub}
    checkpoint = read_json(folder / "config.json").get("model_type") == MedMergeConfig.model_type
    if not checkpoint and not (folder / MERGE_CONFIG).is_file():
        raise StateError(
            f"{name!r} holds no {MERGE_CONFIG}: it was not exported by medmerge_hf. Load it with "
            "AutoModelForImageClassification, or name it as a source."
        )
    tensors = _read_tensors(folder / WEIGHTS) if checkpoint else {}
    collapsed = KERNEL_WEIGHTS not in tensors
    if dtype is not None and (merging or not collapsed):
        raise SettingsError("A merge learns in float32: leave dtype out, and train it with bf16=True instead.")
    config = config or MedMergeConfig.from_json_file(folder / ("config.json" if checkpoint else MERGE_CONFIG))
    network, state = None, tensors
    if collapsed:
        state = _read_state(folder) if merging or len(config.sources) > 1 else {}
        if not merging:
            network = _checkpoint_network(folder, config, tensors) if checkpoint else _read_network(folder)
            network = network if dtype is None else network.to(export_dtype(dtype))
    return SavedModel(folder, config, state, network, _read_processor(folder), name, shared, collapsed)


def find_folder(name: str, subfolder: str = "", **hub: Any) -> Path:
    """A local folder as it is, a Hub repository's configs and weights downloaded."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder / subfolder
    if name.startswith((".", "/", "~")):
        raise SourceNotFoundError(f"{name!r}: no such folder (looked at {folder.absolute()}).")
    patterns = [f"{subfolder}/{pattern}" for pattern in EXPORT] if subfolder else EXPORT
    return fetch_files(name, allow_patterns=patterns, **hub) / subfolder


def _read_state(folder: Path) -> dict[str, Tensor]:
    if not (folder / MERGE_STATE).is_file():
        raise StateError(f"{folder} holds no {MERGE_STATE}: one source was fine-tuned, nothing was merged.")
    return _read_tensors(folder / MERGE_STATE)


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CorruptSourceError(f"{file} cannot be read ({error}).") from error


def _checkpoint_network(folder: Path, config: MedMergeConfig, tensors: Mapping[str, Tensor]) -> Any:
    network = build_network(config.plain_config())
    try:
        network.load_state_dict({name.removeprefix("network."): tensor for name, tensor in tensors.items()})
    except RuntimeError as error:
        raise CorruptSourceError(f"{folder}: its weights do not fit its config ({error}).") from error
    return network


def _read_network(folder: Path) -> Any:
    from transformers import AutoModelForImageClassification

    try:
        network, info = AutoModelForImageClassification.from_pretrained(
            folder, output_loading_info=True, trust_remote_code=False
        )
    except Exception as error:  # whatever transformers, timm or safetensors raise on missing and broken files
        raise CorruptSourceError(f"{folder}: its network cannot be loaded ({error}).") from error
    if info["missing_keys"] or info["unexpected_keys"]:
        wrong = sorted([*info["missing_keys"], *info["unexpected_keys"]])
        raise CorruptSourceError(f"{folder}: its weights do not fit its config ({wrong[0]} first).")
    return network


def _read_processor(folder: Path) -> Any:
    from transformers import AutoImageProcessor

    if not (folder / "preprocessor_config.json").is_file():
        return None
    return AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)


def fitting_tensors(state_dict: Mapping[str, Any], merging: bool) -> bool:
    """Whether a state dict is a model's own (`network.*`), not that of the plain network in an export.

    Args:
        state_dict: that is about to be loaded.
        merging: the model's state.

    Raises:
        StateError: it belongs to the other state.
    """
    if not merging and KERNEL_WEIGHTS in state_dict:
        raise StateError(
            "This is a checkpoint of the merge stage, and the model is collapsed. from_pretrained(checkpoint) "
            "gives the model that it belongs to."
        )
    if any(name.startswith("network.") for name in state_dict):
        return True
    if merging:
        raise StateError(
            "These are the tensors of a collapsed export, without kernel weights. To resume a merge or load its "
            "best checkpoint, train with MedMergeTrainer; it writes checkpoints that hold them."
        )
    return False
