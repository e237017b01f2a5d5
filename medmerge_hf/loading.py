"""From a saved folder or Hub repository back to a [`MedMergeModel`]."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file
from torch import Tensor

from .checkpoints import read_json
from .configuration_medmerge import MedMergeConfig
from .errors import CorruptSourceError, SourceError, SourceNotFoundError, StateError
from .export import MERGE_CONFIG, MERGE_STATE, PERMUTATION
from .hub import fetch_files
from .references import SourceReference
from .sources import Source, load_source


if TYPE_CHECKING:
    from .modeling_medmerge import MedMergeModel


WEIGHTS = "model.safetensors"
EXPORT = [
    *("config.json", "preprocessor_config.json", "model*.safetensors", "model.safetensors.index.json"),
    *(MERGE_CONFIG, MERGE_STATE),
]
# Of the keywords for the Hub, those that hold for the sources too.
SHARED = ("token", "cache_dir", "local_files_only")


def load_merged(
    cls: "type[MedMergeModel]",
    name: str,
    merging: bool,
    sources: Sequence[Source] | None,
    **hub: Any,
) -> "MedMergeModel":
    """What [`MedMergeModel.from_pretrained`] does; arguments as there."""
    folder = find_folder(name, **hub)
    kind = read_json(folder / "config.json").get("model_type")
    if kind == MedMergeConfig.model_type:
        config = MedMergeConfig.from_json_file(folder / "config.json")
        return _load_merging(cls, config, load_file(folder / WEIGHTS), folder, sources, **hub)
    if not (folder / MERGE_CONFIG).is_file():
        raise StateError(
            f"{name!r} holds no {MERGE_CONFIG}: it was not exported by medmerge_hf. Load it with "
            "AutoModelForImageClassification, or name it as a source."
        )
    config = MedMergeConfig.from_json_file(folder / MERGE_CONFIG)
    if not merging:
        return _load_collapsed(cls, config, folder)
    try:
        return _load_merging(cls, config, _read_state(folder), folder, sources, **hub)
    except SourceError as error:
        raise type(error)(f"{error} The collapsed model itself still loads: from_pretrained({name!r}).") from error


def find_folder(name: str, **hub: Any) -> Path:
    """A local folder as it is, a Hub repository's configs and weights downloaded."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name.startswith((".", "/", "~")):
        raise SourceNotFoundError(f"{name!r}: no such folder (looked at {folder.absolute()}).")
    return fetch_files(name, allow_patterns=EXPORT, **hub)


def _read_state(folder: Path) -> dict[str, Tensor]:
    if not (folder / MERGE_STATE).is_file():
        raise StateError(f"{folder} holds no {MERGE_STATE}: one source was fine-tuned, nothing was merged.")
    return load_file(folder / MERGE_STATE)


def _load_collapsed(cls: "type[MedMergeModel]", config: MedMergeConfig, folder: Path) -> "MedMergeModel":
    from transformers import AutoModelForImageClassification

    model = cls(config)
    try:
        network, info = AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
    except Exception as error:  # whatever transformers, timm or safetensors raise on missing and broken files
        raise CorruptSourceError(f"{folder}: its network cannot be loaded ({error}).") from error
    if info["missing_keys"] or info["unexpected_keys"]:
        wrong = sorted([*info["missing_keys"], *info["unexpected_keys"]])
        raise CorruptSourceError(f"{folder}: its weights do not fit its config ({wrong[0]} first).")
    model.network = network
    model.merge_state = _read_state(folder) if len(config.sources) > 1 else {}
    _read_processor(model, folder)
    return model.eval()


def _load_merging(
    cls: "type[MedMergeModel]",
    config: MedMergeConfig,
    state: Mapping[str, Tensor],
    folder: Path,
    sources: Sequence[Source] | None,
    **hub: Any,
) -> "MedMergeModel":
    known = [SourceReference.parse(source) for source in config.sources]
    if sources is not None and len(sources) != len(known):
        raise StateError(f"sources names {len(sources)}, the merge was made of {len(known)}: {[s.id for s in known]}.")
    model = cls(config)
    wanted = zip(sources or known, known, strict=True)
    shared = {key: hub[key] for key in SHARED if key in hub}
    loaded = [load_source(source, reference.architecture, **shared) for source, reference in wanted]
    model.attach(loaded, state.get(PERMUTATION))
    result = model.load_state_dict(state, strict=False)
    wrong = sorted({*result.unexpected_keys, *(set(result.missing_keys) - set(model._frozen_names()))})
    if wrong:
        raise CorruptSourceError(f"{folder}: the merge state does not fit its config ({wrong[0]} first).")
    _read_processor(model, folder)
    return model.eval()


def _read_processor(model: "MedMergeModel", folder: Path) -> None:
    """timm's processor follows from the config; a transformers one lies in the folder."""
    from transformers import AutoImageProcessor

    if model.image_processor is None and (folder / "preprocessor_config.json").is_file():
        model.image_processor = AutoImageProcessor.from_pretrained(folder)
