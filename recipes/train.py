"""Merge sources for a target data set, fine-tune the merge, export it.

    accelerate launch recipes/train.py CONFIG.yaml [--option value ...]
    python recipes/train.py CONFIG.yaml [--option value ...] [--merge.option value] [--finetune.option value]

The YAML holds the options of settings.py, and under `merge` and `finetune` the `TrainingArguments` of the
two stages. `${NAME}` in it is an environment variable. What stands on the command line wins.
"""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from building import load_data, make_model, make_single
from choosing import choose_sources
from settings import Settings, claim_output_dir, make_settings, read_options, recipe_of, write_whole
from transformers import EarlyStoppingCallback, TrainingArguments, set_seed
from transformers.utils import logging as hf_logging

from medmerge_hf import MedMergeModel, MedMergeTrainer
from medmerge_hf.baselines import freeze_backbone
from medmerge_hf.data import ImageDataset
from medmerge_hf.errors import MedMergeError
from medmerge_hf.imbalance import BalancedLoss, balanced_weights
from medmerge_hf.metrics import make_compute_metrics
from medmerge_hf.provenance import METHOD, record_data
from medmerge_hf.report import markdown_table
from medmerge_hf.resuming import last_checkpoint
from medmerge_hf.transforms import resolve_preprocessing


def make_trainer(model: MedMergeModel, target: Any, settings: Settings, args: TrainingArguments) -> MedMergeTrainer:
    """A trainer for one stage on the target's training and validation images."""
    if settings.run.channels_last:
        model.to(memory_format=torch.channels_last)
    pixels = resolve_preprocessing(model)
    augment = pixels.train_transform(settings.data.crop_scale, settings.data.color_jitter)
    patience, loss = settings.run.patience, None
    if settings.data.class_weights:
        loss = BalancedLoss(balanced_weights(target["train"]["label"], len(target.classes)), target.multi_label)
    return MedMergeTrainer(
        model=model,
        args=args,
        train_dataset=ImageDataset(target["train"], augment),
        eval_dataset=ImageDataset(target["validation"], pixels.eval_transform),
        compute_metrics=make_compute_metrics(model.config.num_labels, target.multi_label),
        compute_loss_func=loss,
        callbacks=[EarlyStoppingCallback(patience)] if patience else None,
    )


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
    return {key: value for key, value in figures.items() if "per_second" not in key and key != "epoch"}


def merge_and_finetune(
    target: Any, settings: Settings, record: int = 0, resume: bool = False
) -> tuple[MedMergeModel, dict[str, float]]:
    """Both stages of a merge.

    Args:
        target: the data set.
        settings: of the run.
        record: see [`evaluate`].
        resume: go on from the checkpoints in the output folders, where there are some.

    Returns:
        The model, fine-tuned, and its figures after each stage.
    """
    after_merge = Path(settings.run.output_dir) / "after_merge.json"
    checkpoint = last_checkpoint(settings.finetune.output_dir) if resume else None
    if checkpoint is None:
        model, figures = merge(target, settings, record, resume)
        if settings.merge.should_save:
            write_json(after_merge, figures)
    else:
        model, figures = MedMergeModel.from_pretrained(checkpoint), json.loads(after_merge.read_text())
    trainer = make_trainer(model, target, settings, settings.finetune)
    trainer.train(resume_from_checkpoint=checkpoint)
    return model, figures | evaluate(trainer, target, "finetuned", record)


def merge(target: Any, settings: Settings, record: int, resume: bool) -> tuple[MedMergeModel, dict[str, float]]:
    """The merge stage alone; the model comes back collapsed."""
    model = make_model(settings, target)
    record_data(model.config, target)
    trainer = make_trainer(model, target, settings, settings.merge)
    trainer.train(resume_from_checkpoint=last_checkpoint(settings.merge.output_dir) if resume else None)
    trainer.collapse()
    return model, evaluate(trainer, target, "merged", record)


def write_json(file: Path, figures: Any) -> None:
    """Figures or rows of results."""
    write_whole(file, json.dumps(figures, indent=2, sort_keys=True))


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


def _at_revision(given: Any, found: Mapping[str, Any]) -> Any:
    pinned = {"id": found["id"], "revision": found["revision"]}
    return {**given, **pinned} if isinstance(given, dict) else f"{found['id']}@{found['revision']}"


def exact_revisions(model: MedMergeModel, target: Any, settings: Settings) -> dict[str, Any]:
    """The sources and the data set as options, at the commits that were used."""
    sources = [
        _at_revision(given, found) if found["revision"] else given
        for found, given in zip(model.config.sources, settings.options["sources"], strict=True)
    ]
    return {"sources": sources} | ({"data_revision": target.revision} if target.revision else {})


def run(settings: Settings) -> dict[str, float]:
    """Everything from sources to the export; returns what `all_results.json` holds.

    Started again after it was killed, it goes on from its last whole checkpoint and ends as it would have.
    """
    with settings.merge.main_process_first(desc="claim the output folder"):
        folder = claim_output_dir(settings)
    target = load_data(settings)
    settings = choose_sources(settings, target)
    set_seed(settings.run.seed)
    model, figures = merge_and_finetune(target, settings, settings.run.resamples, resume=True)
    if settings.run.sources_alone:
        results = [row for row in model.config.record["results"] if row["method"] == METHOD]
        model.config.record = {**model.config.record, "results": results + train_alone(target, settings)}
    if settings.finetune.should_save:
        exact = exact_revisions(model, target, settings)
        model.config.record = {**model.config.record, "recipe": recipe_of(settings, exact)}
        write_json(folder / "all_results.json", figures)
        model.save_pretrained(
            folder,
            push_to_hub=settings.run.push_to_hub,
            repo_id=settings.run.hub_model_id or folder.absolute().name,
            private=settings.run.hub_private_repo,
            dtype=settings.run.export_dtype,
        )
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
