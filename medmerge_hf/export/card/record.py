"""What was done to a model, kept in its config: target data, training, results. The model card is made of it."""

import dataclasses
import platform
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from transformers.trainer_pt_utils import AcceleratorConfig

from ...configuration_medmerge import MedMergeConfig
from ...data.gate import PATH
from ...evaluation.compute_metrics import make_compute_metrics
from ...sources.reference import source_name


Stage = Literal["merge", "head", "finetune"]

METHOD = "MedMerge"

# After which stage a figure was measured, in their order.
AFTER: dict[str, str] = {
    "merge": "merged",
    "head": "head trained",
    "finetune": "fine-tuned",
    "match": "shares matched",
}

# Of TrainingArguments, what every stage is told by; of the others only what is not at its default.
ALWAYS = (
    *("num_train_epochs", "learning_rate", "kernel_learning_rate", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "optim"),
    "seed",
)

# What came of them.
TAKEN = ("processes", "steps_taken", "epochs_taken", "metric_for_best_model", "best_metric")

# What says where files go and what is printed, not how a model was trained.
APART = ("output_dir", "report_to", "run_name", "disable_tqdm", "resume_from_checkpoint", "debug", "project")

APART_PREFIXES = ("logging_", "log_", "hub_", "push_to_hub", "trackio_", "do_", "local_")


def method_name(config: MedMergeConfig) -> str:
    """What results are noted under: the merge, or the one source that was trained alone."""
    return METHOD if len(config.sources) > 1 else source_name(config.sources[0])


def record_data(config: MedMergeConfig, target: Any) -> None:
    """Note the target data set.

    Args:
        config: of the model; changed.
        target: of [`load_target`].
    """
    images = {split: len(rows) for split, rows in target.items()}
    splits = {split: dict(zip(target.classes, target.counts(split).tolist(), strict=True)) for split in target}
    origin = {"name": target.name, "hub_id": target.hub_id, "revision": target.revision}
    if target.pixel_rule:
        origin["pixel_rule"] = target.pixel_rule
    if target.unlabelled is not None:
        origin["unlabelled"] = {"images": len(target.unlabelled), "from": target.unlabelled_from}
    origin["left_out"] = dict(Counter(PATH.sub("...", reason) for _, reason in target.left_out))
    config.record = {**config.record, "data": {**origin, "splits": splits, "images": images}}


def record_training(
    config: MedMergeConfig, stage: Stage, args: Any, state: Any, more: Mapping[str, Any] | None = None
) -> None:
    """Note how a stage was trained. What was noted of later stages, and results of this one, are no longer true.

    Args:
        config: of the model; changed.
        stage: `merge`, `head` (alone) or `finetune`.
        args: its `TrainingArguments`.
        state: its `TrainerState`.
        more: settings that are no training arguments.
    """
    chosen = chosen_settings(args)
    settings = {name: v for name, v in chosen.items() if stage == "merge" or not name.startswith("kernel_")}
    settings |= {"processes": args.world_size, "steps_taken": state.global_step, "epochs_taken": state.epoch}
    settings |= dict(more or {})
    if state.best_metric is not None:
        settings |= {"metric_for_best_model": args.metric_for_best_model, "best_metric": state.best_metric}
    noted = config.record.get("training", {}) if stage == "finetune" else {}
    earlier = {name: told for name, told in noted.items() if name != "match"}
    later = (AFTER[stage], AFTER["match"])
    results = [row for row in config.record.get("results", []) if earlier and row["after"] not in later]
    config.record = {
        **config.record,
        "training": {**earlier, stage: settings},
        "results": results,
        "versions": versions(),
    }


def record_match(config: MedMergeConfig, images: int, shift: Sequence[float]) -> None:
    """Note that the head's biases were set by how often images without labels are said to be of each class.

    Args:
        config: of the model; changed.
        images: how many.
        shift: what was added to the logits.
    """
    added = ", ".join(f"{name} {value:+.2f}" for name, value in zip(config.id2label.values(), shift, strict=True))
    told = {"unlabelled_images": images, "added_to_the_logits": added}
    config.record = {**config.record, "training": {**config.record.get("training", {}), "match": told}}


def chosen_settings(args: Any) -> dict[str, Any]:
    """What training arguments were set to: the usual figures, and whatever else is not at its default.

    Args:
        args: `TrainingArguments` or a subclass.

    Returns:
        Name -> value as JSON knows it. Of a path only the last part, and nothing of outputs, logs and the Hub.
    """
    values = args.to_dict()
    found = {name: values[name] for name in ALWAYS if name in values}
    for field in dataclasses.fields(args):
        name, apart = field.name, field.name in APART or field.name.startswith(APART_PREFIXES)
        if name in values and not apart and not _same(values[name], _default(field)):
            found[name] = _without_place(values[name])
    if args.max_steps > 0:
        found.pop("num_train_epochs", None)  # has no effect then
    return found


def _default(field: "dataclasses.Field[Any]") -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _same(value: Any, default: Any) -> bool:
    """Whether a value is the default, `TrainingArguments` having put what it stands for in the place of `None`."""
    if default is not None:
        return value == default
    if isinstance(value, dict):
        return value.items() <= AcceleratorConfig().to_dict().items()
    return value is None or value is False


def _without_place(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_place(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_place(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def record_result(
    config: MedMergeConfig,
    split: str,
    images: int,
    metrics: Mapping[str, Mapping[str, float]],
    resamples: int,
    labels: Mapping[str, Mapping[str, float]] | None = None,
    counted: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    """Note how good the model is as it stands.

    Args:
        config: of the model; changed.
        split: which images.
        images: how many.
        metrics: metric -> its `value`, and `low` and `high` end of its 95 % interval.
        resamples: of the bootstrap behind it.
        labels: where an image may have several, of each by itself: metric -> value.
        counted: `confusion` and `reliability` of [`evaluation.counted`], for pictures.
    """
    training = config.record.get("training", {})
    stage = next((stage for stage in reversed(AFTER) if stage in training), "merge")
    place = {"method": method_name(config), "after": AFTER[stage], "split": split}
    others = [row for row in config.record.get("results", []) if not place.items() <= row.items()]
    row = {**place, "images": images, "metrics": dict(metrics), "resamples": resamples}
    row |= {"labels": dict(labels)} if labels else {}
    row |= counted or {}
    config.record = {**config.record, "results": [*others, row]}


def record_choice(
    config: MedMergeConfig,
    advice: str,
    losses: Mapping[str, float],
    temperatures: Mapping[str, float],
    shares: Mapping[str, float],
    exported: str,
) -> None:
    """Note what a model was chosen among.

    Args:
        config: of the model; changed.
        advice: what the ranking said before any training.
        losses: candidate -> log-loss on validation, at its temperature.
        temperatures: candidate -> by which its logits are divided there.
        shares: source -> its weight among the teachers.
        exported: the candidate that this model is.
    """
    tables = {"losses": dict(losses), "temperatures": dict(temperatures), "shares": dict(shares)}
    config.record = {**config.record, "choice": {"advice": advice, **tables, "exported": exported}}


def label_figures(logits: Any, truth: Any, names: Mapping[int, str]) -> dict[str, dict[str, float]]:
    """Figures of each of several labels by itself; a probability from 0.5 on is yes.

    Args:
        logits: `[N, K]`.
        truth: `[N, K]`, 1 where an image has a label.
        names: of the labels.

    Returns:
        Label -> figure -> value.
    """
    compute = make_compute_metrics(1, multi_label=True)
    return {name: compute((logits[:, [index]], truth[:, [index]])) for index, name in names.items()}


def versions() -> dict[str, str]:
    """Versions of what computed."""
    libraries = {name: version(name) for name in ("torch", "timm", "transformers", "datasets")}
    own = sys.modules[__name__.partition(".")[0]].__version__  # the package lies above this room
    return {"medmerge_hf": own, "python": platform.python_version(), **libraries}
