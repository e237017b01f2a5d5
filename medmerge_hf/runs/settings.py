"""All of a run: its options, checked together before anything is read or trained."""

import contextlib
import copy
import dataclasses
import json
import os
import tempfile
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import constants, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..errors import SettingsError
from ..merging.kernel_weights import initial_parameters
from ..networks.timm_config import timm_config
from ..sources.reference import SourceReference
from ..training.training_args import MedMergeTrainingArguments
from .checks import Problems, Rule, check_names, check_values, did_you_mean
from .config import expand
from .options import SECTIONS, STAGES, DataOptions, RunOptions, SourceOptions
from .stage_arguments import NO_USE, check_integrations, make_arguments, stage_rules


@dataclasses.dataclass
class Settings:
    """All of a run, and the options that it was made from.

    Attributes:
        source: what is merged.
        data: the target task.
        run: the run as a whole.
        merge: arguments of the merge stage.
        finetune: arguments of the stage after it.
        options: as the user gave them.
    """

    source: SourceOptions
    data: DataOptions
    run: RunOptions
    merge: MedMergeTrainingArguments
    finetune: MedMergeTrainingArguments
    options: dict[str, Any]

    def below(self, name: str) -> "Settings":
        """The same in a folder of its own below the output folder."""
        folder = f"{self.run.output_dir}/{name}"
        run, merge, finetune = copy.copy(self.run), copy.copy(self.merge), copy.copy(self.finetune)
        run.output_dir, merge.output_dir, finetune.output_dir = folder, f"{folder}/merge", f"{folder}/finetune"
        return dataclasses.replace(self, run=run, merge=merge, finetune=finetune)


def section_rules(section: type) -> dict[str, Rule]:
    """Name -> what it takes, of the options of a section."""
    hints = typing.get_type_hints(section)
    return {
        field.name: Rule(hints[field.name], field.metadata["allowed"], field.metadata["count"])
        for field in dataclasses.fields(section)
    }


def make_settings(raw: Mapping[str, Any], fewest_sources: int = 2) -> Settings:
    """Check options, all of them together.

    Args:
        raw: option -> value as [`read_options`] gives them, those of a stage in a mapping of their own.
        fewest_sources: 1 where sources are trained alone and nothing is merged.

    Returns:
        The settings of the run.

    Raises:
        SettingsError: a line for each option that is missing, unknown, out of range or contradicts another.

    Example:
        >>> make_settings({"sources": ["a", "b"], "data": "images", "output_dir": "out", "image_size": 0})
        Traceback (most recent call last):
        ...
        medmerge_hf.errors.SettingsError: image_size=0: expected a whole number at least 8 and at most 8192.
    """
    problems = Problems()
    settings = find_settings(raw, problems, fewest_sources)
    problems.raise_all()
    assert settings is not None
    return settings


def find_settings(raw: Mapping[str, Any], problems: Problems, fewest_sources: int = 2) -> Settings | None:
    """As [`make_settings`], for several runs whose problems are told together.

    Args:
        raw: option -> value.
        problems: receives a text for each option that is wrong.
        fewest_sources: how many there must be.

    Returns:
        `None` where something is wrong.
    """
    before = len(problems)
    options = expand(raw, problems)
    stages = {stage: _stage(stage, options.get(stage), problems) for stage in STAGES}
    _check_all_names(options, stages, problems)
    rules = [section_rules(section) for section in SECTIONS]
    rules[-1]["report_to"] = stage_rules()["report_to"]  # its words are those of transformers
    values = [check_values(options, own, problems) for own in rules]
    source, data, run = (section(**found) for section, found in zip(SECTIONS, values, strict=True))
    for name, value in (("sources", source.sources), ("data", data.data), ("output_dir", run.output_dir)):
        if not value and options.get(name) in (None, "", []):
            problems.append(f"--{name} is missing: give it in the YAML or on the command line.")
    source.sources = [_source(f"sources[{place}]", one, problems) for place, one in enumerate(source.sources)]
    _check_sources(source, fewest_sources, problems)
    _check_data(data, problems)
    _check_run(run, source, problems)
    made = {stage: _arguments(stage, given, run, problems) for stage, given in stages.items()}
    if len(problems) > before:
        return None
    given = {**raw, "sources": [_parsed(one) for one in _as_list(raw["sources"])]}
    return Settings(source, data, run, **made, options=given)  # type: ignore[arg-type]


def _stage(name: str, given: Any, problems: Problems) -> Mapping[str, Any]:
    if given is None or isinstance(given, Mapping):
        return given or {}
    problems.value(name, given, "a mapping of TrainingArguments")
    return {}


def _check_all_names(options: Mapping[str, Any], stages: Mapping[str, Any], problems: Problems) -> None:
    own = [field.name for section in SECTIONS for field in dataclasses.fields(section)]
    below = [f"{stage}.{name}" for stage in STAGES for name in stage_rules()]
    known = [*own, *STAGES, *below]
    if "compare" in options:
        problems.append("compare: a section of `medmerge compare`; a training has one target and one list of sources.")
    check_names([name for name in options if name != "compare"], known, problems)
    for stage, given in stages.items():
        check_names([name for name in given if name not in NO_USE], known, problems, f"{stage}.")


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _parsed(given: Any) -> Any:
    """A source as [`MedMergeModel.from_sources`] takes it: a name, or a mapping, which may be JSON."""
    return json.loads(given) if isinstance(given, str) and given.startswith("{") else given


def _source(name: str, given: Any, problems: Problems) -> Any:
    try:
        found = _parsed(given)
        reference = SourceReference.parse(found)
        texts = {field: getattr(reference, field) for field in ("id", "revision", "file", "architecture", "license")}
        if wrong := [
            field for field, text in texts.items() if text is not None and not (text and isinstance(text, str))
        ]:
            raise SettingsError(f"{', '.join(wrong)} must be text")
        return found
    except (SettingsError, ValueError, TypeError, AttributeError) as error:
        problems.value(name, given, f"a name, or a mapping of a SourceReference ({error})")
        return ""


def _check_sources(source: SourceOptions, fewest: int, problems: Problems) -> None:
    if source.architecture is not None:
        try:
            timm_config(source.architecture)
        except (SettingsError, RuntimeError) as error:  # timm's own: a tag that it does not know
            hint = did_you_mean(source.architecture, timm.list_models())
            problems.value("architecture", source.architecture, f"timm's name of a network ({error}){hint}")
    count = len(source.sources)
    if 0 < count < fewest:
        problems.value("sources", source.sources, "an anchor and at least one other source")
    if count < fewest or fewest < 2:
        return
    merged = source.keep_best or count
    if merged > count:
        problems.value("keep_best", merged, f"at most the {count} sources that there are")
        return
    init: Any = source.init[0] if len(source.init) == 1 else source.init
    try:
        initial_parameters(init, merged, source.constraint)  # type: ignore[arg-type]
    except SettingsError as error:
        problems.append(str(error))


def _check_data(data: DataOptions, problems: Problems) -> None:
    if data.crop_scale[0] > data.crop_scale[1]:
        problems.value("crop_scale", data.crop_scale, "the smaller share first")
    if data.dicom_window is not None and not (len(data.dicom_window) == 2 and data.dicom_window[1] > 0):
        problems.value("dicom_window", data.dicom_window, "a centre and a width above 0")
    if data.class_weights and data.class_priors:
        problems.append("class_weights, class_priors: both make up for classes of unequal size: take one of them.")
    if data.multi_label and data.class_priors:
        problems.append("class_priors: has no effect where an image may have several labels; take class_weights.")
    if data.match_shares and not data.unlabelled:
        problems.append("match_shares: needs images without a label: say with unlabelled where they are.")
    if data.match_shares and data.multi_label:
        problems.append("match_shares: has no effect where an image may have several labels: leave it out.")
    for name in ("image_column", "label_column"):
        if not getattr(data, name):
            problems.value(name, "", "the name of a column")


def _check_run(run: RunOptions, source: SourceOptions, problems: Problems) -> None:
    check_integrations("report_to", run.report_to, problems)
    run.output_dir = os.path.expanduser(run.output_dir)
    if run.output_dir and (why := _why_not_writable(Path(run.output_dir))):
        problems.value("output_dir", run.output_dir, f"a folder to write into ({why})")
    if run.method == "auto" and len(source.init) > 1:
        problems.value("init", source.init, "one number where method=auto chooses the anchor")
    if run.push_to_hub:
        _check_hub(run, problems)


def _why_not_writable(folder: Path) -> str:
    """Why nothing can be written into a folder that may not be there yet."""
    place = folder.absolute()
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.stat(place)  # what no file can be called
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            return f"{place} is no folder"
        with tempfile.TemporaryFile(dir=place):
            return ""
    except (OSError, ValueError) as error:
        return str(error)


def _check_hub(run: RunOptions, problems: Problems) -> None:
    name = run.hub_model_id or Path(run.output_dir).absolute().name
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        problems.value("hub_model_id", name, f"user/name ({error})")
    if constants.is_offline_mode():
        problems.value("push_to_hub", True, "false, since HF_HUB_OFFLINE is set")
    elif get_token() is None:
        problems.value("push_to_hub", True, "a token of the Hub: run `hf auth login`, or set HF_TOKEN")


def _arguments(
    stage: str, given: Mapping[str, Any], run: RunOptions, problems: Problems
) -> MedMergeTrainingArguments | None:
    shared = {"seed": run.seed, "report_to": run.report_to, "output_dir": f"{run.output_dir}/{stage}"}
    args = make_arguments(stage, given, shared, problems)
    if args is not None and run.patience is not None and args.eval_strategy.value == "no":
        problems.append(f"patience={run.patience}: counts evaluations, but {stage}.eval_strategy is no.")
    return args
