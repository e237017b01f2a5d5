"""The options of the recipes: YAML file and command line -> dataclasses."""

import copy
import dataclasses
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import HfArgumentParser

from ..errors import SettingsError
from ..training.training_args import MedMergeTrainingArguments


STAGES = ("merge", "finetune")

LISTS = ("sources", "include", "exclude", "freeze", "init", "crop_scale")

# Of both stages, unless the YAML or the command line says otherwise.
STAGE_DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "lr_scheduler_type": "cosine",
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "load_best_model_at_end": True,
    "metric_for_best_model": "macro_f1",
    "greater_is_better": True,
    "logging_steps": 10,
    "remove_unused_columns": False,
    "dataloader_pin_memory": torch.cuda.is_available(),
}


@dataclasses.dataclass
class SourceOptions:
    """What is merged, and how finely."""

    sources: list[str] = dataclasses.field(
        default_factory=list,
        metadata={
            "help": "Anchor first: timm names, Hub ids (@revision), folders, weights files; or mappings (JSON on the "
            "command line) of a SourceReference: id, input, variant, ..."
        },
    )
    architecture: str | None = dataclasses.field(
        default=None, metadata={"help": "timm name of the network, where the anchor is a weights file."}
    )
    granularity: str = dataclasses.field(
        default="filter", metadata={"help": "model, layer, filter, kernel or element."}
    )
    constraint: str = dataclasses.field(default="complementary", metadata={"help": "complementary or convex."})
    init: list[float] = dataclasses.field(
        default_factory=lambda: [0.0], metadata={"help": "Starting weight of every other source, or one each."}
    )
    include: list[str] = dataclasses.field(
        default_factory=list,
        metadata={"help": "Patterns of the tensors that are merged (layer3.*); all by default."},
    )
    exclude: list[str] = dataclasses.field(
        default_factory=list, metadata={"help": "Patterns of tensors that stay the anchor's."}
    )
    freeze: list[str] = dataclasses.field(
        default_factory=list, metadata={"help": "Patterns of tensors whose kernel weights stay at init."}
    )
    keep_best: int | None = dataclasses.field(
        default=None,
        metadata={"help": "Merge so many of the sources, those on which a linear probe does best, in that order."},
    )
    align: str | None = dataclasses.field(
        default=None,
        metadata={"help": "Permute the sources' channels onto the anchor's first: weights or activations."},
    )


@dataclasses.dataclass
class DataOptions:
    """The target task."""

    data: str = dataclasses.field(
        default="",
        metadata={"help": "Folder of images or DICOM, table (.csv, .jsonl, .parquet), Hub id, or MedMNIST .npz."},
    )
    data_name: str | None = dataclasses.field(default=None, metadata={"help": "Configuration of a Hub data set."})
    data_revision: str | None = dataclasses.field(default=None, metadata={"help": "Revision of a Hub data set."})
    image_column: str = dataclasses.field(default="image", metadata={"help": "Column that holds the images."})
    label_column: str = dataclasses.field(default="label", metadata={"help": "Column that holds the classes."})
    group_column: str | None = dataclasses.field(
        default=None, metadata={"help": "Column that holds the patients; each stays on one side of every split."}
    )
    multi_label: bool = dataclasses.field(default=False, metadata={"help": "An image may have several labels."})
    dicom_window: list[float] | None = dataclasses.field(
        default=None, metadata={"help": "Centre and width of DICOM images; by default the files' own."}
    )
    class_weights: bool = dataclasses.field(
        default=False, metadata={"help": "Weigh the classes in the loss so that each counts the same."}
    )
    validation_fraction: float = dataclasses.field(
        default=0.2, metadata={"help": "Share of the training images for validation, where no such split exists."}
    )
    test_fraction: float = dataclasses.field(default=0.0, metadata={"help": "Likewise for the test split."})
    label_fraction: float = dataclasses.field(
        default=1.0, metadata={"help": "Share of the training and validation images that is used."}
    )
    skip_unreadable: bool = dataclasses.field(default=False, metadata={"help": "Leave unreadable images out."})
    drop_duplicates: bool = dataclasses.field(
        default=False, metadata={"help": "Leave training images out that also stand in validation or test."}
    )
    image_size: int | None = dataclasses.field(
        default=None, metadata={"help": "Pixels a side; by default the anchor's own."}
    )
    crop_scale: list[float] = dataclasses.field(
        default_factory=lambda: [0.5, 1.0], metadata={"help": "Area that a random crop keeps, from - to."}
    )
    color_jitter: float = dataclasses.field(default=0.2, metadata={"help": "Strength of the colour jitter."})


@dataclasses.dataclass
class RunOptions:
    """The run as a whole."""

    output_dir: str = dataclasses.field(default="", metadata={"help": "Export, results and checkpoints go here."})
    seed: int = dataclasses.field(default=0, metadata={"help": "Of splits, head, order and augmentation."})
    export_dtype: str = dataclasses.field(
        default="float32", metadata={"help": "Of the exported weights: float32, bfloat16 or float16."}
    )
    report_to: str = dataclasses.field(default="none", metadata={"help": "tensorboard, trackio, wandb, ..."})
    channels_last: bool = dataclasses.field(
        default=False, metadata={"help": "Keep convolution weights channels last: faster on most CPUs and GPUs."}
    )
    sources_alone: bool = dataclasses.field(
        default=False, metadata={"help": "Also train each source alone, as long as the merge, for the model card."}
    )
    resamples: int = dataclasses.field(
        default=1000, metadata={"help": "Of the bootstrap behind the intervals on the model card."}
    )
    push_to_hub: bool = dataclasses.field(default=False, metadata={"help": "Upload the export, with its model card."})
    hub_model_id: str | None = dataclasses.field(
        default=None, metadata={"help": "user/name; by default the name of output_dir."}
    )
    hub_private_repo: bool | None = dataclasses.field(
        default=None, metadata={"help": "Whether a repository made here is private."}
    )
    patience: int | None = dataclasses.field(
        default=None, metadata={"help": "Stop a stage after so many evaluations without a better macro F1."}
    )


@dataclasses.dataclass
class Settings:
    """All of a run, and the options that it was made from."""

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


def read_options(argv: Sequence[str]) -> dict[str, Any]:
    """YAML file (first argument, optional) and command line as one mapping, with one in it for each stage."""
    arguments = list(argv)
    options: dict[str, Any] = {}
    if arguments and not arguments[0].startswith("--"):
        options = _read_yaml(Path(arguments.pop(0)))
    options |= {stage: dict(options.get(stage) or {}) for stage in STAGES}
    while arguments:
        name = arguments.pop(0)
        if not name.startswith("--"):
            raise SettingsError(f"Expected an option such as --seed, found {name!r}.")
        name, found, value = name[2:].partition("=")
        values = [value] if found else []
        while arguments and not arguments[0].startswith("--"):
            values.append(arguments.pop(0))
        stage, dot, option = name.partition(".")
        where, key = (options[stage], option) if dot and stage in STAGES else (options, name)
        where[key] = values if len(values) > 1 or key in LISTS else (values or ["true"])[0]
    return options


def pop_list(options: dict[str, Any], name: str, default: Iterable[Any]) -> list[Any]:
    """Take an option of one value or more out of the options."""
    value = options.pop(name, list(default))
    return value if isinstance(value, list) else [value]


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text()
    except OSError as error:
        raise SettingsError(f"Config {str(file)!r} cannot be read ({error}).") from error
    options = yaml.safe_load(text)
    if not isinstance(options, dict):
        raise SettingsError(f"Config {str(file)!r} is not a mapping of options.")
    return options


def _words(options: Mapping[str, Any]) -> list[str]:
    """A mapping as command line words, which is the one form that `HfArgumentParser` converts types from."""
    words = []
    for key, value in options.items():
        if value is None:
            continue
        values = value if isinstance(value, (list, tuple)) else [value]
        words += [f"--{key}", *(json.dumps(v) if isinstance(v, (dict, bool)) else str(v) for v in values)]
    return words


def _parse(kinds: Any, options: Mapping[str, Any]) -> Any:
    parsed = HfArgumentParser(kinds).parse_args_into_dataclasses(
        args=_words(options), look_for_args_file=False, return_remaining_strings=True
    )
    if parsed[-1]:
        raise SettingsError(f"Unknown options: {' '.join(parsed[-1])}.")
    return parsed[:-1]


def expand(value: Any) -> Any:
    """Environment variables in the strings of a mapping or list."""
    if isinstance(value, Mapping):
        return {key: expand(item) for key, item in value.items()}
    if isinstance(value, list):
        return [expand(item) for item in value]
    if not isinstance(value, str):
        return value
    for name in re.findall(r"\$\{(\w+)\}", value):
        if name not in os.environ:
            raise SettingsError(f"{value} needs the environment variable {name}: run as `{name}=... python ...`.")
    return os.path.expandvars(value)


def make_settings(raw: Mapping[str, Any]) -> Settings:
    """Dataclasses from [`read_options`]."""
    options = expand(raw)
    rest = {key: value for key, value in options.items() if key not in STAGES}
    source, data, run = _parse((SourceOptions, DataOptions, RunOptions), rest)
    source.sources = [read_source(text) for text in source.sources]
    if source.keep_best is not None and source.keep_best < 2:
        raise SettingsError(f"--keep_best {source.keep_best} leaves nothing to merge: keep 2 at least.")
    for name, value in (("sources", source.sources), ("data", data.data), ("output_dir", run.output_dir)):
        if not value:
            raise SettingsError(f"--{name} is missing: give it in the YAML or on the command line.")
    shared = {**STAGE_DEFAULTS, "seed": run.seed, "report_to": run.report_to}
    stages = {
        stage: _parse(MedMergeTrainingArguments, {**shared, "output_dir": place, **options.get(stage, {})})[0]
        for stage, place in ((name, f"{run.output_dir}/{name}") for name in STAGES)
    }
    return Settings(source, data, run, **stages, options=dict(raw))


def read_source(text: str) -> Any:
    """A source as the command line words it: a name, or a JSON object that says more."""
    if not text.startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise SettingsError(f"The source {text!r} is no JSON object ({error}).") from error
