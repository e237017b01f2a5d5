"""The stages of a run: a trainer for each, merge, fine-tuning, the sources alone; what each leaves to go on from."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, TrainingArguments, set_seed

from ..data import ImageDataset
from ..errors import SettingsError
from ..evaluation.compute_metrics import make_compute_metrics
from ..export.card.record import record_data
from ..modeling_medmerge import MedMergeModel
from ..networks.preprocessing import resolve_preprocessing
from ..training.checkpoints import last_checkpoint
from ..training.class_shares import match_class_shares
from ..training.distillation import MixedImages, Teachers
from ..training.losses import TaskLoss, balanced_weights, log_priors
from ..training.single_source import freeze_backbone
from ..training.trainer import MedMergeTrainer
from ..training.training_args import MedMergeTrainingArguments
from .build import make_model, make_single
from .history import LogWithEvaluation, keep_history
from .progress import follow
from .run_folder import write_json
from .settings import Settings
from .stage_arguments import fresh_accelerator


def make_trainer(
    model: MedMergeModel,
    target: Any,
    settings: Settings,
    args: TrainingArguments,
    teachers: Teachers | None = None,
) -> MedMergeTrainer:
    """A trainer for one stage on the target's training and validation images.

    Args:
        model: that is trained.
        target: the data set.
        settings: of the run.
        args: of the stage.
        teachers: what the model learns from beside the labels, on the target's images without labels too, mixed.
    """
    fresh_accelerator()
    if settings.run.channels_last:
        model.to(memory_format=torch.channels_last)
    pixels = resolve_preprocessing(model)
    augment = pixels.train_transform(settings.data.crop_scale, settings.data.color_jitter)
    patience = settings.run.patience
    pool = None
    if teachers is not None:
        pool = MixedImages(ImageDataset(target.unlabelled or target["train"], augment))
    trainer = MedMergeTrainer(
        model=model,
        args=args,
        train_dataset=ImageDataset(target["train"], augment),
        eval_dataset=ImageDataset(target["validation"], pixels.eval_transform),
        compute_metrics=make_compute_metrics(model.config.num_labels, target.multi_label),
        compute_loss_func=_loss(target, settings),
        callbacks=[LogWithEvaluation(), *([EarlyStoppingCallback(patience)] if patience else [])],
        teachers=teachers,
        unlabelled_dataset=pool,
    )
    follow(trainer)
    return trainer


def _loss(target: Any, settings: Settings) -> TaskLoss | None:
    """What makes up for classes of unequal size, if the settings ask for it."""
    if settings.data.class_weights:
        return TaskLoss(balanced_weights(target["train"]["label"], len(target.classes)))
    priors = class_priors(target, settings)
    return None if priors is None else TaskLoss(priors=priors)


def class_priors(target: Any, settings: Settings) -> torch.Tensor | None:
    """Log frequencies of the classes that the loss adds to the logits, `[K]`, if the settings ask for it.

    Args:
        target: the data set.
        settings: of the run.
    """
    if not settings.data.class_priors:
        return None
    return log_priors(target["train"]["label"], len(target.classes))


def eval_transform(model: Any) -> Any:
    """Image -> tensor, as a model is evaluated."""
    return resolve_preprocessing(model).eval_transform


def evaluate(trainer: MedMergeTrainer, target: Any, prefix: str, record: int = 0) -> dict[str, float]:
    """Metrics on validation and test, as `<prefix>_<split>_<metric>`.

    Args:
        trainer: with the model.
        target: the data set.
        prefix: of the metrics' names.
        record: note those on test (or validation, where there is no test split) for the model card, with intervals
            from so many resamples.
    """
    transform = eval_transform(trainer.model)
    figures: dict[str, float] = {}
    for split in ("validation", "test"):
        if split in target:
            figures |= trainer.evaluate(ImageDataset(target[split], transform), metric_key_prefix=f"{prefix}_{split}")
    if record:
        split = "test" if "test" in target else "validation"
        trainer.record_results(ImageDataset(target[split], transform), split, record)
    of_time = ("per_second", "model_preparation_time")
    return {k: value for k, value in figures.items() if k != "epoch" and not any(one in k for one in of_time)}


def whole_arguments(settings: Settings) -> MedMergeTrainingArguments:
    """Arguments of a single stage that trains as long as both together."""
    args, merge = copy.copy(settings.finetune), settings.merge
    args.num_train_epochs += merge.num_train_epochs
    args.max_steps += max(merge.max_steps, 0)  # -1 in both where epochs count
    return args


def merge_and_finetune(
    target: Any, settings: Settings, record: int = 0, resume: bool = False, teachers: Teachers | None = None
) -> tuple[MedMergeModel, dict[str, float]]:
    """Both stages of a merge.

    Args:
        target: the data set.
        settings: of the run.
        record: see [`evaluate`].
        resume: go on from the checkpoints in the output folders, where there are some.
        teachers: that both stages learn from.

    Returns:
        The model, fine-tuned, and its figures after each stage.
    """
    after_merge = Path(settings.run.output_dir) / "after_merge.json"
    checkpoint = last_checkpoint(settings.finetune.output_dir) if resume and after_merge.is_file() else None
    if checkpoint is None:
        model, figures = merge(target, settings, record, resume, teachers)
        if settings.merge.should_save:
            write_json(after_merge, figures)
    else:
        model, figures = MedMergeModel.from_pretrained(checkpoint), json.loads(after_merge.read_text())
    trainer = make_trainer(model, target, settings, settings.finetune, teachers)
    trainer.train(resume_from_checkpoint=checkpoint)
    keep_history(trainer)
    return model, figures | evaluate(trainer, target, "finetuned", record)


def merge(
    target: Any, settings: Settings, record: int, resume: bool, teachers: Teachers | None = None
) -> tuple[MedMergeModel, dict[str, float]]:
    """The merge stage alone; the model comes back collapsed."""
    model = make_model(settings, target)
    record_data(model.config, target)
    trainer = make_trainer(model, target, settings, settings.merge, teachers)
    trainer.train(resume_from_checkpoint=last_checkpoint(settings.merge.output_dir) if resume else None)
    keep_history(trainer)
    trainer.collapse()
    return model, evaluate(trainer, target, "merged", record)


def match_shares(model: MedMergeModel, target: Any, settings: Settings, record: int = 0) -> dict[str, float]:
    """The last stage, if the settings ask for it.

    Args:
        model: trained; its head's biases are changed.
        target: the data set.
        settings: of the run.
        record: see [`evaluate`].

    Returns:
        The figures after it; none where nothing was asked for.
    """
    if not settings.data.match_shares:
        return {}
    trainer = make_trainer(model, target, settings, settings.finetune)
    match_on_unlabelled(trainer, target)
    return evaluate(trainer, target, "matched", record)


def match_on_unlabelled(trainer: MedMergeTrainer, target: Any) -> None:
    """Shift the head's biases until the target's images without a label are of each class as often as the others.

    Args:
        trainer: with the model.
        target: the data set.

    Raises:
        SettingsError: it has no images without a label.
    """
    if target.unlabelled is None:
        raise SettingsError("The shares of the classes are matched on images without a label: say unlabelled.")
    images = ImageDataset(target.unlabelled, eval_transform(trainer.model))
    match_class_shares(trainer, images, target.counts("train"))


def lp_ft(model: MedMergeModel, target: Any, settings: Settings, record: int = 0) -> dict[str, float]:
    """What the merge is measured against: the head alone, then everything, with the arguments of the two stages."""
    trainer = make_trainer(freeze_backbone(model), target, settings, settings.merge)
    trainer.train()
    figures = evaluate(trainer, target, "merged", record)
    trainer = make_trainer(freeze_backbone(model, False), target, settings, settings.finetune)
    trainer.train()
    return figures | evaluate(trainer, target, "finetuned", record)


def train_alone(target: Any, settings: Settings) -> list[dict[str, Any]]:
    """Train each source alone; rows for the table of results. Those that a killed run finished are not repeated."""
    rows = []
    for index, source in enumerate(settings.source.sources):
        own = settings.below(f"alone/{index}")
        done = Path(own.run.output_dir) / "results.json"
        if not done.is_file():
            set_seed(settings.run.seed)
            single = make_single(source, settings, target)
            lp_ft(single, target, own, record=settings.run.resamples)
            if settings.finetune.should_save:
                write_json(done, single.config.record["results"])
            rows += single.config.record["results"]
        else:
            rows += json.loads(done.read_text())
    return rows
