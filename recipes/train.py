"""Merge sources for a target data set, fine-tune the merge, export it.

    accelerate launch recipes/train.py CONFIG.yaml [--option value ...]
    python recipes/train.py CONFIG.yaml [--option value ...] [--merge.option value] [--finetune.option value]

The YAML holds the options of the dataclasses below, and under `merge` and `finetune` the `TrainingArguments` of the
two stages. `${NAME}` in it is an environment variable. What stands on the command line wins.
"""

import dataclasses
import json
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
import yaml
from transformers import EarlyStoppingCallback, HfArgumentParser, TrainingArguments, set_seed
from transformers.utils import logging as hf_logging

from medmerge_hf import MedMergeModel, MedMergeTrainer, MedMergeTrainingArguments
from medmerge_hf.data import Pixels, load_target
from medmerge_hf.errors import MedMergeError, OutputDirError, SettingsError
from medmerge_hf.metrics import make_compute_metrics
from medmerge_hf.report import markdown_table, plot_kernel_weights
from medmerge_hf.transforms import resolve_preprocessing


logger = logging.getLogger("medmerge_hf.recipes")

STAGES = ("merge", "finetune")
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
class SourceArguments:
    """What is merged, and how finely."""

    sources: list[str] = dataclasses.field(
        default_factory=list,
        metadata={"help": "Anchor first: timm names, Hub ids (@revision), folders or weights files."},
    )
    architecture: str | None = dataclasses.field(
        default=None, metadata={"help": "timm name of the network, where the anchor is a weights file."}
    )
    granularity: str = dataclasses.field(
        default="filter", metadata={"help": "model, layer, filter, kernel or element."}
    )
    constraint: str = dataclasses.field(default="complementary", metadata={"help": "complementary or convex."})
    init: float = dataclasses.field(default=0.0, metadata={"help": "Starting weight of every other source."})


@dataclasses.dataclass
class DataArguments:
    """The target task."""

    data: str = dataclasses.field(
        default="", metadata={"help": "Image folder, Hub data set id, or MedMNIST-style .npz."}
    )
    data_name: str | None = dataclasses.field(default=None, metadata={"help": "Configuration of a Hub data set."})
    data_revision: str | None = dataclasses.field(default=None, metadata={"help": "Revision of a Hub data set."})
    image_column: str = dataclasses.field(default="image", metadata={"help": "Column that holds the images."})
    label_column: str = dataclasses.field(default="label", metadata={"help": "Column that holds the classes."})
    validation_fraction: float = dataclasses.field(
        default=0.2, metadata={"help": "Share of the training images for validation, where no such split exists."}
    )
    test_fraction: float = dataclasses.field(default=0.0, metadata={"help": "Likewise for the test split."})
    skip_unreadable: bool = dataclasses.field(default=False, metadata={"help": "Leave unreadable images out."})
    image_size: int | None = dataclasses.field(default=None, metadata={"help": "Pixels; by default the anchor's own."})
    crop_scale: list[float] = dataclasses.field(
        default_factory=lambda: [0.5, 1.0], metadata={"help": "Area that a random crop keeps, from - to."}
    )
    color_jitter: float = dataclasses.field(default=0.2, metadata={"help": "Strength of the colour jitter."})


@dataclasses.dataclass
class RunArguments:
    """The run as a whole."""

    output_dir: str = dataclasses.field(default="", metadata={"help": "Export, results and checkpoints go here."})
    seed: int = dataclasses.field(default=0, metadata={"help": "Of splits, head, order and augmentation."})
    report_to: str = dataclasses.field(default="none", metadata={"help": "tensorboard, trackio, wandb, ..."})
    channels_last: bool = dataclasses.field(
        default=False, metadata={"help": "Keep convolution weights channels last: faster on most CPUs and GPUs."}
    )
    patience: int | None = dataclasses.field(
        default=None, metadata={"help": "Stop a stage after so many evaluations without a better macro F1."}
    )


@dataclasses.dataclass
class Settings:
    """All of a run, and the options that it was made from."""

    source: SourceArguments
    data: DataArguments
    run: RunArguments
    merge: MedMergeTrainingArguments
    finetune: TrainingArguments
    options: dict[str, Any]


# Settings


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
        where[key] = values if len(values) > 1 or key in ("sources", "crop_scale") else (values or ["true"])[0]
    return options


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text()
    except OSError as error:
        raise SettingsError(f"Config {str(file)!r} cannot be read ({error}).") from error
    for name in re.findall(r"\$\{(\w+)\}", text):
        if name not in os.environ:
            raise SettingsError(f"{file} needs the environment variable {name}: run as `{name}=... python ...`.")
    options = yaml.safe_load(os.path.expandvars(text))
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


def make_settings(options: Mapping[str, Any]) -> Settings:
    """Dataclasses from [`read_options`]."""
    rest = {key: value for key, value in options.items() if key not in STAGES}
    source, data, run = _parse((SourceArguments, DataArguments, RunArguments), rest)
    for name, value in (("sources", source.sources), ("data", data.data), ("output_dir", run.output_dir)):
        if not value:
            raise SettingsError(f"--{name} is missing: give it in the YAML or on the command line.")
    shared = {**STAGE_DEFAULTS, "seed": run.seed, "report_to": run.report_to}
    stages = {
        stage: _parse(kind, {**shared, "output_dir": f"{run.output_dir}/{stage}", **options.get(stage, {})})[0]
        for stage, kind in (("merge", MedMergeTrainingArguments), ("finetune", TrainingArguments))
    }
    return Settings(source, data, run, **stages, options=dict(options))


def claim_output_dir(settings: Settings) -> Path:
    """Make the output folder, unless another run's files are in it."""
    folder = Path(settings.run.output_dir)
    mine = yaml.safe_dump(settings.options)
    record = folder / "run.yaml"
    if folder.is_dir() and any(folder.iterdir()) and not (record.is_file() and record.read_text() == mine):
        held = "another run (its run.yaml differs)" if record.is_file() else "other files"
        raise OutputDirError(f"{folder} already holds {held}. Choose another --output_dir, or move it away.")
    folder.mkdir(parents=True, exist_ok=True)
    record.write_text(mine)
    return folder


# Training


def load_data(settings: Settings) -> Any:
    """The target data set of the settings."""
    d = settings.data
    return load_target(
        d.data,
        name=d.data_name,
        revision=d.data_revision,
        image_column=d.image_column,
        label_column=d.label_column,
        validation_fraction=d.validation_fraction,
        test_fraction=d.test_fraction,
        skip_unreadable=d.skip_unreadable,
        seed=settings.run.seed,
    )


def label_names(target: Any) -> dict[int, str]:
    """Class index -> name of a loaded target."""
    return dict(enumerate(target["train"].features["label"].names))


def make_model(settings: Settings, target: Any) -> MedMergeModel:
    """The sources of the settings, ready for the merge stage on a target."""
    return MedMergeModel.from_sources(
        settings.source.sources,
        id2label=label_names(target),
        architecture=settings.source.architecture,
        image_size=settings.data.image_size,
        granularity=settings.source.granularity,  # type: ignore[arg-type]
        constraint=settings.source.constraint,  # type: ignore[arg-type]
        init=settings.source.init,
    )


def make_trainer(model: MedMergeModel, target: Any, settings: Settings, args: TrainingArguments) -> MedMergeTrainer:
    """A trainer for one stage on the target's training and validation images."""
    if settings.run.channels_last:
        model.to(memory_format=torch.channels_last)
    pixels = resolve_preprocessing(model)
    augment = pixels.train_transform(settings.data.crop_scale, settings.data.color_jitter)
    patience = settings.run.patience
    return MedMergeTrainer(
        model=model,
        args=args,
        train_dataset=Pixels(target["train"], augment),
        eval_dataset=Pixels(target["validation"], pixels.eval_transform),
        compute_metrics=make_compute_metrics(model.config.num_labels),
        callbacks=[EarlyStoppingCallback(patience)] if patience else None,
    )


def evaluate(trainer: MedMergeTrainer, target: Any, prefix: str) -> dict[str, float]:
    """Metrics on validation and test, as `<prefix>_<split>_<metric>`."""
    transform = resolve_preprocessing(trainer.model).eval_transform
    figures: dict[str, float] = {}
    for split in ("validation", "test"):
        if split in target:
            figures |= trainer.evaluate(Pixels(target[split], transform), metric_key_prefix=f"{prefix}_{split}")
    return {key: value for key, value in figures.items() if "per_second" not in key and key != "epoch"}


def merge_and_finetune(model: MedMergeModel, target: Any, settings: Settings) -> dict[str, float]:
    """Both stages of a merge; the model is left fine-tuned."""
    trainer = make_trainer(model, target, settings, settings.merge)
    trainer.train()
    trainer.collapse()
    trainer = make_trainer(model, target, settings, settings.finetune)
    figures = evaluate(trainer, target, "merged")
    trainer.train()
    return figures | evaluate(trainer, target, "finetuned")


def run(settings: Settings) -> dict[str, float]:
    """Everything from sources to the export; returns what `all_results.json` holds."""
    folder = claim_output_dir(settings)
    target = load_data(settings)
    set_seed(settings.run.seed)
    model = make_model(settings, target)
    figures = merge_and_finetune(model, target, settings)
    if settings.finetune.should_save:
        model.save_pretrained(folder)
        (folder / "all_results.json").write_text(json.dumps(figures, indent=2, sort_keys=True))
        plot_kernel_weights(model.kernel_weights(), folder / "kernel_weights.png")
    return figures


def results_table(figures: Mapping[str, float]) -> str:
    """Metrics before and after fine-tuning, as Markdown."""
    metrics = ("macro_f1", "balanced_accuracy", "accuracy", "auroc")
    rows = [
        [stage, split, *(f"{figures[f'{key}_{split}_{metric}']:.3f}" for metric in metrics)]
        for key, stage in (("merged", "merged"), ("finetuned", "fine-tuned"))
        for split in ("validation", "test")
        if f"{key}_{split}_macro_f1" in figures
    ]
    return markdown_table(["stage", "split", "macro F1", "balanced accuracy", "accuracy", "AUROC"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("medmerge_hf").setLevel(logging.INFO)
    hf_logging.set_verbosity_warning()
    datasets.disable_progress_bars()
    try:
        settings = make_settings(read_options(sys.argv[1:] if argv is None else argv))
        figures = run(settings)
    except MedMergeError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(f"\n{results_table(figures)}\n\nExported to {settings.run.output_dir}")


if __name__ == "__main__":
    main()
