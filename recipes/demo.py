"""The main job on synthetic data, without a Hub: two tiny sources, one merge, one export, one table.

    python recipes/demo.py [FOLDER] [--only-sources]

Sources and target are drawn phantoms (see phantoms.py), not medical images; the result shows that everything works and
says nothing about medicine.
"""

import argparse
import logging
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import timm
import torch
from phantoms import TASKS, write_task
from transformers import pipeline, set_seed
from transformers.utils import logging as hf_logging

from medmerge_hf.evaluation.tables import markdown_table, mean_and_spread
from medmerge_hf.runs.build import label_names, load_data, make_single
from medmerge_hf.runs.settings import make_settings
from medmerge_hf.runs.stages import evaluate, lp_ft, make_trainer
from medmerge_hf.runs.train import run
from medmerge_hf.training.single_source import MedMergeModel, single_source_model


ARCHITECTURE = "test_resnet"

SEEDS = (0, 1, 2)

SOURCES = ("cells", "projections")

TARGET = "vessels"

# Two steps are an epoch here: looking and saving every second epoch takes half the time.
EVERY: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps", "save_steps": 4}

OPTIONS: dict[str, Any] = {
    "image_size": 64,
    "crop_scale": [0.7, 1.0],
    "merge": {
        "num_train_epochs": 10,
        "learning_rate": 1e-2,
        "kernel_learning_rate": 1e-2,
        "disable_tqdm": True,
        **EVERY,
    },
    "finetune": {"num_train_epochs": 10, "learning_rate": 1e-3, "disable_tqdm": True, **EVERY},
}


def draw_tasks(folder: Path) -> None:
    """Two tasks with many images for the sources, one with few labelled ones for the target."""
    for task in SOURCES:
        write_task(task, folder / task, {"train": 100, "validation": 30})
    write_task(TARGET, folder / TARGET, {"train": 16, "validation": 16, "test": 60})


def train_source(task: str, seed: int, folder: Path, out: Path) -> float:
    """Train a tiny network from scratch, save it as a timm folder, and return its macro F1 on validation."""
    options = {"sources": ["-"], "data": str(folder / task), "output_dir": str(out / "work"), "seed": seed}
    stage = {"num_train_epochs": 6, "learning_rate": 2e-3, "per_device_train_batch_size": 16, "disable_tqdm": True}
    settings = make_settings({**OPTIONS, **options, "finetune": stage}, fewest_sources=1)
    target = load_data(settings)
    set_seed(seed)
    network = timm.create_model(ARCHITECTURE)
    model = single_source_model(network, id2label=label_names(target), image_size=OPTIONS["image_size"])
    trainer = make_trainer(model, target, settings, settings.finetune)
    trainer.train()
    model.save_pretrained(out / task)
    return evaluate(trainer, target, "source")["source_validation_macro_f1"]


def compare_methods(folder: Path, out: Path) -> dict[str, dict[str, list[float]]]:
    """Each source alone and their merge, every seed, the same number of steps: method -> stage -> macro F1 on test."""
    sources = [str(out / task) for task in SOURCES]
    rows: list[tuple[str, dict[str, float]]] = []
    for seed in SEEDS:
        place = {"data": str(folder / TARGET), "output_dir": str(out / f"merged_seed{seed}"), "seed": seed}
        settings = make_settings({**OPTIONS, **place, "sources": sources})
        target = load_data(settings)
        for source in sources:
            set_seed(seed)
            rows.append((f"{Path(source).name} alone", lp_ft(make_single(source, settings, target), target, settings)))
            shutil.rmtree(settings.run.output_dir)
        rows.append(("MedMerge", run(settings)))
    scores: dict[str, dict[str, list[float]]] = {}
    for method, figures in rows:
        for stage, key in (("after stage 1", "merged"), ("fine-tuned", "finetuned")):
            scores.setdefault(method, {}).setdefault(stage, []).append(figures[f"{key}_test_macro_f1"])
    return scores


def check_export(export: Path, folder: Path) -> str:
    """Load the export as anybody would and compare it with ours on one image."""
    file = next((folder / TARGET / "test").rglob("*.png"))
    best = pipeline("image-classification", model=str(export), trust_remote_code=False)(str(file))[0]
    model = MedMergeModel.from_pretrained(export)
    plain = timm.create_model(f"local-dir:{export}", pretrained=True).eval()
    images = torch.rand(2, 3, OPTIONS["image_size"], OPTIONS["image_size"])
    with torch.no_grad():
        difference = (model(images).logits - plain(images)).abs().max().item()
    return (
        f"pipeline on {file.parent.name}/{file.name}: {best['label']} ({best['score']:.2f}); "
        f"timm against medmerge_hf: logits differ by {difference:.1g}"
    )


def table(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Macro F1 on the test images after each stage, mean and spread over seeds."""
    lines = [[method, *(mean_and_spread(values) for values in stages.values())] for method, stages in scores.items()]
    return markdown_table(["method", "macro F1 after stage 1", "after fine-tuning"], lines)


def draw_scores(axes: Any, scores: Mapping[str, Mapping[str, Sequence[float]]], label: str) -> None:
    """Draw a group of bars a method, one bar a stage: its mean, and a dot a seed.

    Args:
        axes: of matplotlib.
        scores: method -> stage -> a figure for each seed.
        label: what the figure is.
    """
    for row, stages in enumerate(scores.values()):
        height = 0.8 / len(stages)
        for index, (stage, values) in enumerate(stages.items()):
            place = row + (index - (len(stages) - 1) / 2) * height
            axes.barh(
                place,
                statistics.fmean(values),
                height * 0.92,
                color=f"C{index}",
                alpha=0.7,
                label=None if row else stage,
            )
            axes.plot(values, [place] * len(values), "o", color="0.15", ms=3.5)
    axes.set_yticks(range(len(scores)), list(scores))
    axes.invert_yaxis()
    axes.set_xlabel(f"{label} (a dot a seed)")
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    axes.spines[["top", "right"]].set_visible(False)


def draw_figure(scores: Mapping[str, Mapping[str, Sequence[float]]], folder: Path, file: Path) -> None:
    """Examples of the three tasks above the scores on the target."""
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(8.5, 3.9), layout="constrained")
    for column, task in enumerate([*SOURCES, TARGET]):
        files = [next((folder / task / "train" / name).iterdir()) for name in TASKS[task][1]]
        axes = figure.add_subplot(2, 3, column + 1)
        axes.imshow(np.hstack([np.asarray(Image.open(file).convert("RGB")) for file in files]))
        axes.set_title(f"{'target' if column == 2 else f'source {column + 1}'}: {task} (synthetic)", fontsize=9)
        axes.axis("off")
    draw_scores(figure.add_subplot(2, 1, 2), scores, "test macro F1")
    figure.savefig(file, dpi=120)


def make_folder(out: Path) -> Path:
    """An empty folder; only what an earlier demo left is removed."""
    if out.exists() and not (out / "synthetic").is_dir():
        raise SystemExit(f"{out} exists and is no folder of an earlier demo: name another.")
    shutil.rmtree(out, ignore_errors=True)
    return out / "synthetic"


def read_words(argv: Sequence[str] | None) -> argparse.Namespace:
    """What stands behind the script's name."""
    parser = argparse.ArgumentParser(description="The main job on drawn images.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("demo"), help="a new one (demo)")
    told = "draw the images and train the two sources, for runs of your own"
    parser.add_argument("--only-sources", action="store_true", help=told)
    return parser.parse_args(argv)


def make_sources(folder: Path, out: Path) -> None:
    """Draw every task, and train a network on each of those that are sources."""
    print("Drawing three synthetic tasks (phantoms, no medical images).")
    draw_tasks(folder)
    for seed, task in enumerate(SOURCES):
        print(f"Training source {task!r} from scratch ...", flush=True)
        with redirect_stdout(StringIO()):  # the trainer's log lines
            score = train_source(task, seed, folder, out)
        print(f"  macro F1 on its own task: {score:.3f}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    start, words = time.perf_counter(), read_words(argv)
    out, folder = words.folder, make_folder(words.folder)
    make_sources(folder, out)
    if words.only_sources:
        shutil.rmtree(out / "work")
        print(f"Sources: {', '.join(str(out / task) for task in SOURCES)}. Images: {folder / TARGET}.")
        return
    print(
        f"Target {TARGET!r}, 48 labelled images: {len(SEEDS)} seeds, each source alone and the merge ...", flush=True
    )
    with redirect_stdout(StringIO()):
        scores = compare_methods(folder, out)
    draw_figure(scores, folder, out / "demo.png")
    print(f"\n{table(scores)}\n\nMean and standard deviation over seeds; the same number of steps for every method.")
    print(check_export(out / f"merged_seed{SEEDS[-1]}", folder))
    print(f"Figure: {out / 'demo.png'}. Took {time.perf_counter() - start:.0f} s.")


if __name__ == "__main__":
    main()
