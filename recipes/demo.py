"""The main job on synthetic data, without a Hub: two tiny sources, one merge, one export, one table.

    python recipes/demo.py [FOLDER]

Sources and target are drawn phantoms (see phantoms.py), not medical images; the result shows that everything works and
says nothing about medicine.
"""

import logging
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from compare import MERGE, lp_ft, title
from phantoms import TASKS, write_task
from train import evaluate, label_names, load_data, make_settings, make_trainer, run
from transformers import pipeline, set_seed
from transformers.utils import logging as hf_logging

from medmerge_hf import MedMergeModel, single_source_model
from medmerge_hf.report import markdown_table, mean_and_spread


ARCHITECTURE = "test_resnet"
SEEDS = (0, 1, 2)
SOURCES = ("cells", "projections")
TARGET = "vessels"
OPTIONS: dict[str, Any] = {
    "image_size": 64,
    "crop_scale": [0.7, 1.0],
    "merge": {"num_train_epochs": 15, "learning_rate": 1e-2, "kernel_learning_rate": 1e-2, "disable_tqdm": True},
    "finetune": {"num_train_epochs": 15, "learning_rate": 1e-3, "disable_tqdm": True},
}


def draw_tasks(folder: Path) -> None:
    """Two tasks with many images for the sources, one with few labelled ones for the target."""
    for task in SOURCES:
        write_task(task, folder / task, {"train": 200, "validation": 30})
    write_task(TARGET, folder / TARGET, {"train": 16, "validation": 16, "test": 100})


def train_source(task: str, seed: int, folder: Path, out: Path) -> float:
    """Train a tiny network from scratch, save it as a timm folder, and return its macro F1 on validation."""
    options = {"sources": ["-"], "data": str(folder / task), "output_dir": str(out / "work"), "seed": seed}
    stage = {"num_train_epochs": 6, "learning_rate": 2e-3, "disable_tqdm": True}
    settings = make_settings({**OPTIONS, **options, "finetune": stage})
    target = load_data(settings)
    set_seed(seed)
    network = timm.create_model(ARCHITECTURE)
    model = single_source_model(network, id2label=label_names(target), image_size=OPTIONS["image_size"])
    trainer = make_trainer(model, target, settings, settings.finetune)
    trainer.train()
    model.save_pretrained(out / task)
    return evaluate(trainer, target, "source")["source_validation_macro_f1"]


def compare_methods(folder: Path, out: Path) -> dict[str, list[dict[str, float]]]:
    """Each source alone and their merge, every seed, the same number of steps."""
    sources = [str(out / task) for task in SOURCES]
    rows: dict[str, list[dict[str, float]]] = {method: [] for method in [*sources, MERGE]}
    for seed in SEEDS:
        place = {"data": str(folder / TARGET), "output_dir": str(out / f"merged_seed{seed}"), "seed": seed}
        settings = make_settings({**OPTIONS, **place, "sources": sources})
        target = load_data(settings)
        for source in sources:
            set_seed(seed)
            model = single_source_model(source, id2label=label_names(target), image_size=OPTIONS["image_size"])
            rows[source].append(lp_ft(model, target, settings))
            shutil.rmtree(settings.run.output_dir)
        rows[MERGE].append(run(settings))
    return rows


def check_export(export: Path, folder: Path) -> str:
    """Load the export as anybody would and compare it with ours on one image."""
    file = next((folder / TARGET / "test").rglob("*.png"))
    best = pipeline("image-classification", model=str(export))(str(file))[0]
    model = MedMergeModel.from_pretrained(export)
    plain = timm.create_model(f"local-dir:{export}", pretrained=True).eval()
    images = torch.rand(2, 3, OPTIONS["image_size"], OPTIONS["image_size"])
    with torch.no_grad():
        difference = (model(images).logits - plain(images)).abs().max().item()
    return (
        f"pipeline on {file.parent.name}/{file.name}: {best['label']} ({best['score']:.2f}); "
        f"timm against medmerge_hf: logits differ by {difference:.1g}"
    )


def table(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Macro F1 on the test images after each stage, mean and spread over seeds."""
    lines = [
        [
            title(method),
            *(mean_and_spread([run[f"{stage}_test_macro_f1"] for run in runs]) for stage in ("merged", "finetuned")),
        ]
        for method, runs in rows.items()
    ]
    return markdown_table(["method", "macro F1 after stage 1", "after fine-tuning"], lines)


def draw_figure(rows: Mapping[str, Sequence[Mapping[str, float]]], folder: Path, file: Path) -> None:
    """Examples of the three tasks above the scores on the target."""
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(8, 5.2), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1, 1.7])
    for column, (task, axes) in enumerate(zip([*SOURCES, TARGET], top.subplots(1, 3), strict=True)):
        files = [next((folder / task / "train" / name).iterdir()) for name in TASKS[task][1]]
        axes.imshow(Image.fromarray(np.hstack([Image.open(f).convert("RGB") for f in files])))
        axes.set_title(f"{'target' if column == 2 else f'source {column + 1}'}: {task} (synthetic)", fontsize=9)
        axes.axis("off")
    axes = bottom.subplots()
    for place, runs in enumerate(rows.values()):
        for offset, (stage, name, colour) in enumerate(
            [("merged", "after stage 1", "C1"), ("finetuned", "fine-tuned", "C0")]
        ):
            values = [run[f"{stage}_test_macro_f1"] for run in runs]
            x = place + 0.36 * (offset - 0.5)
            axes.bar(x, sum(values) / len(values), 0.34, color=colour, alpha=0.75, label=name if place == 0 else None)
            axes.plot([x] * len(values), values, "o", color="0.15", ms=4)
    axes.set_xticks(range(len(rows)), [title(method) for method in rows])
    axes.set_ylabel("test macro F1 (a dot a seed)")
    axes.set_ylim(0, 1)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    hf_logging.set_verbosity_error()
    start = time.perf_counter()
    out = Path([*(sys.argv[1:] if argv is None else argv), "demo"][0])
    shutil.rmtree(out, ignore_errors=True)
    folder = out / "synthetic"
    print("Drawing three synthetic tasks (phantoms, no medical images) ...")
    draw_tasks(folder)
    for seed, task in enumerate(SOURCES):
        print(f"Training source {task!r} from scratch: macro F1 {train_source(task, seed, folder, out):.3f}")
    rows = compare_methods(folder, out)
    draw_figure(rows, folder, out / "demo.png")
    print(
        f"\nTarget {TARGET!r}, 48 labelled images, {len(SEEDS)} seeds, the same steps for every method:\n\n{table(rows)}\n"
    )
    print(check_export(out / f"merged_seed{SEEDS[-1]}", folder))
    print(f"Figure: {out / 'demo.png'}. Took {time.perf_counter() - start:.0f} s.")


if __name__ == "__main__":
    main()
