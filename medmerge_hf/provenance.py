"""What was done to a model, kept in its config: target data, training, results. The model card is made of it."""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Literal

import numpy as np

from . import __version__
from .configuration_medmerge import MedMergeConfig


Stage = Literal["merge", "head", "finetune"]
METHOD = "MedMerge"
# After which stage a figure was measured.
AFTER: dict[str, str] = {"merge": "merged", "head": "head trained", "finetune": "fine-tuned"}
# Of TrainingArguments, what decides how a stage ends.
SETTINGS = (
    *("num_train_epochs", "max_steps", "learning_rate", "kernel_learning_rate", "kernel_average"),
    *("kernel_delay", "kernel_dropout", "kernel_pull", "kernel_pull_binary", "layer_decay", "l2_sp"),
    *(
        "lr_scheduler_type",
        "warmup_steps",
        "weight_decay",
        "max_grad_norm",
        "label_smoothing_factor",
        "optim",
        "per_device_train_batch_size",
    ),
    *("gradient_accumulation_steps", "bf16", "fp16", "seed"),
)


def source_name(source: Mapping[str, Any]) -> str:
    """What people call a source: its Hub id, or a local file's name without the path."""
    return source["id"] if source["revision"] else source["id"].rstrip("/").rsplit("/", 1)[-1]


def method_name(config: MedMergeConfig) -> str:
    """What results are noted under: the merge, or the one source that was trained alone."""
    return METHOD if len(config.sources) > 1 else source_name(config.sources[0])


def record_data(config: MedMergeConfig, target: Any) -> None:
    """Note the target data set.

    Args:
        config: of the model; changed.
        target: of [`load_target`].
    """
    splits = {}
    for split, rows in target.items():
        labels = np.asarray(rows["label"])
        counts = labels.sum(0) if target.multi_label else np.bincount(labels, minlength=len(target.classes))
        splits[split] = {name: int(count) for name, count in zip(target.classes, counts, strict=True)}
    origin = {"name": target.name, "hub_id": target.hub_id, "revision": target.revision}
    if target.pixel_rule:
        origin["pixel_rule"] = target.pixel_rule
    config.record = {**config.record, "data": {**origin, "splits": splits}}


def record_training(config: MedMergeConfig, stage: Stage, args: Any, state: Any) -> None:
    """Note how a stage was trained. What was noted of later stages, and results of this one, are no longer true.

    Args:
        config: of the model; changed.
        stage: `merge`, `head` (alone) or `finetune`.
        args: its `TrainingArguments`.
        state: its `TrainerState`.
    """
    values = args.to_dict()
    names = [name for name in SETTINGS if stage == "merge" or not name.startswith("kernel_")]
    settings = {name: values[name] for name in names if name in values}
    settings |= {"processes": args.world_size, "steps_taken": state.global_step, "epochs_taken": state.epoch}
    if state.best_metric is not None:
        settings |= {"metric_for_best_model": args.metric_for_best_model, "best_metric": state.best_metric}
    earlier = {} if stage != "finetune" else {**config.record.get("training", {})}
    results = [row for row in config.record.get("results", []) if earlier and row["after"] != AFTER[stage]]
    config.record = {
        **config.record,
        "training": {**earlier, stage: settings},
        "results": results,
        "versions": versions(),
    }


def record_result(
    config: MedMergeConfig, split: str, images: int, metrics: Mapping[str, Mapping[str, float]], resamples: int
) -> None:
    """Note how good the model is as it stands.

    Args:
        config: of the model; changed.
        split: which images.
        images: how many.
        metrics: metric -> its `value`, and `low` and `high` end of its 95 % interval.
        resamples: of the bootstrap behind it.
    """
    stage = next((stage for stage in ("finetune", "head") if stage in config.record.get("training", {})), "merge")
    place = {"method": method_name(config), "after": AFTER[stage], "split": split}
    others = [row for row in config.record.get("results", []) if not place.items() <= row.items()]
    row = {**place, "images": images, "metrics": dict(metrics), "resamples": resamples}
    config.record = {**config.record, "results": [*others, row]}


def versions() -> dict[str, str]:
    """Versions of what computed."""
    libraries = {name: version(name) for name in ("torch", "timm", "transformers", "datasets")}
    return {"medmerge_hf": __version__, "python": platform.python_version(), **libraries}
