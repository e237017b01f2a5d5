"""From a saved folder or Hub repository back to what a model is made of: config, state, plain network, processor."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..configuration_medmerge import MERGE_CONFIG, MedMergeConfig
from ..errors import CorruptSourceError, SourceError, SourceNotFoundError, StateError
from ..merging.kernel_weights import KERNEL_WEIGHTS
from ..networks.build import build_network
from ..sources.hub import fetch_files
from ..sources.load import load_source
from ..sources.place import read_json
from ..sources.reference import LoadedSource, Source, SourceReference
from .belonging import check_belonging, check_given
from .checkpoint import MERGE_STATE, WEIGHTS
from .options import HUB_OF_SOURCES, check_wishes, export_dtype, known_keywords


EXPORT = [
    *("config.json", "preprocessor_config.json", "model*.safetensors", "model.safetensors.index.json"),
    *(MERGE_CONFIG, MERGE_STATE),
]
ADAPTER = "adapter_config.json"


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

    def restore(self, model: nn.Module, from_sources: Sequence[str]) -> None:
        """Put the merge state into a model whose sources are attached.

        Args:
            model: as the config describes it.
            from_sources: names of what the state does not hold.

        Raises:
            CorruptSourceError: it does not fit its config.
        """
        try:
            result = nn.Module.load_state_dict(model, self.state, strict=False)
        except RuntimeError as error:  # tensors of another shape
            raise CorruptSourceError(f"{self.folder}: the merge state does not fit its config ({error}).") from error
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
    variant: str | None = None,
    **hub: Any,
) -> SavedModel:
    """Read an export, or a checkpoint of either stage.

    Args:
        name: a folder or a Hub id.
        merging: read the merge state of an export instead of its network.
        dtype: of the network; as it was saved by default or for `"auto"`. `torch_dtype` is the same.
        config: instead of the one in the folder.
        variant: of the weights of an export: `fp16` for `model.fp16.safetensors`.
        hub: of `hf_hub_download`; what else transformers' auto classes hand on means nothing here.

    Returns:
        What it holds; `network` is `None` where the sources have to be attached.

    Raises:
        SettingsError: an unknown keyword, or a dtype for a merge.
        SourceError: the folder is not there, or broken.
        StateError: it was not written by this package, holds no merge, or was changed since.
    """
    dtype = hub.pop("torch_dtype", None) if dtype is None else dtype
    dtype = None if dtype in (None, "auto") else export_dtype(dtype)
    hub = known_keywords(hub)
    folder = find_folder(name, **hub)
    own, checkpoint = _own_config(folder, name)
    tensors = _read_tensors(folder / WEIGHTS) if checkpoint else {}
    collapsed = KERNEL_WEIGHTS not in tensors
    check_wishes(dtype, variant, merging or not collapsed, checkpoint)
    if config is not None:
        check_given(config, own, name)
    network, state = None, tensors
    if collapsed:
        there = (folder / MERGE_STATE).is_file() or (own.record.get("kernels") and not checkpoint)
        state = _read_state(folder) if merging or there else {}
        if not merging:
            network = _checkpoint_network(folder, own, tensors) if checkpoint else _read_network(folder, variant)
        if not checkpoint:
            check_belonging(folder, _plain_config(folder) if network is None else network.config, own, name)
        network = network if network is None or dtype is None else network.to(dtype)
    shared = {key: hub[key] for key in HUB_OF_SOURCES if key in hub}
    return SavedModel(folder, config or own, state, network, _read_processor(folder), name, shared, collapsed)


def no_differences() -> dict[str, Any]:
    """What transformers calls the loading info: between what was saved and what was loaded there is no difference."""
    return {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}


def _own_config(folder: Path, name: str) -> tuple[MedMergeConfig, bool]:
    """The config of the merge in a folder, and whether it is a checkpoint, no export."""
    if not (folder / "config.json").is_file():
        adapter = " It holds a PEFT adapter: load it onto its model." if (folder / ADAPTER).is_file() else ""
        raise CorruptSourceError(f"{name!r} holds no config.json: no model was saved in {folder}.{adapter}")
    plain = read_json(folder / "config.json")
    if plain.get("model_type") == MedMergeConfig.model_type:
        return MedMergeConfig.from_json_file(folder / "config.json"), True
    if not (folder / MERGE_CONFIG).is_file():
        what = plain.get("architecture") or plain.get("model_type") or "network"
        raise StateError(
            f"{name!r} is a plain {what} without {MERGE_CONFIG}: it was not exported by medmerge_hf, or was trained "
            "on without it. AutoModelForImageClassification.from_pretrained loads it, and MedMergeModel.from_sources "
            "takes it as a source."
        )
    return MedMergeConfig.from_json_file(folder / MERGE_CONFIG), False


def find_folder(name: str, subfolder: str = "", **hub: Any) -> Path:
    """A local folder as it is, a Hub repository's configs and weights downloaded."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if name.startswith((".", "/", "~")):
            raise SourceNotFoundError(f"{name!r}: no such folder (looked at {folder.absolute()}).")
        patterns = [f"{subfolder}/{pattern}" for pattern in EXPORT] if subfolder else EXPORT
        folder = fetch_files(name, allow_patterns=patterns, **hub)
    if not (folder / subfolder).is_dir():
        raise SourceNotFoundError(f"{name!r} has no folder {subfolder!r} with a model in it.")
    return folder / subfolder


def _read_state(folder: Path) -> dict[str, Tensor]:
    if not (folder / MERGE_STATE).is_file():
        raise StateError(
            f"{folder} holds no {MERGE_STATE}: it is one network that was not merged, or the file was left behind. "
            "AutoModelForImageClassification.from_pretrained loads the network."
        )
    return _read_tensors(folder / MERGE_STATE)


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CorruptSourceError(f"{file} cannot be read ({error}).") from error


def _checkpoint_network(folder: Path, config: MedMergeConfig, tensors: Mapping[str, Tensor]) -> Any:
    network = build_network(config.plain_config())
    network = network.to(next((t.dtype for t in tensors.values() if t.is_floating_point()), network.dtype))
    try:
        network.load_state_dict({name.removeprefix("network."): tensor for name, tensor in tensors.items()})
    except RuntimeError as error:
        raise CorruptSourceError(f"{folder}: its weights do not fit its config ({error}).") from error
    return network


def _read_network(folder: Path, variant: str | None) -> Any:
    from transformers import AutoModelForImageClassification

    try:
        network, info = AutoModelForImageClassification.from_pretrained(
            folder, variant=variant, output_loading_info=True, trust_remote_code=False
        )
    except Exception as error:  # whatever transformers, timm or safetensors raise on missing and broken files
        raise CorruptSourceError(f"{folder}: its network cannot be loaded ({error}).") from error
    if info["missing_keys"] or info["unexpected_keys"]:
        wrong = sorted([*info["missing_keys"], *info["unexpected_keys"]])
        raise CorruptSourceError(f"{folder}: its weights do not fit its config ({wrong[0]} first).")
    return network


def _plain_config(folder: Path) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever transformers raises on broken files
        raise CorruptSourceError(f"{folder}: its config.json cannot be read ({error}).") from error


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
