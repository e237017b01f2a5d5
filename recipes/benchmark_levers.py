"""Each lever of the merge stage and of fine-tuning alone, on a real target, several seeds: benchmarks/LEVERS.md.

    MEDMERGE_DATA=... python recipes/benchmark_levers.py [--seeds 0 1 2 3 4] [--levers NAME ...]

Finished runs are kept in benchmarks/levers.json and not repeated. Levers of fine-tuning start from one merge a seed.
"""

import copy
import json
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from benchmark_alignment import DEFAULTS, SOURCES, STAGES, interval
from building import load_data
from settings import Settings, make_settings, read_options
from train import evaluate, make_trainer, merge
from transformers import set_seed
from transformers.utils import logging as hf_logging

from medmerge_hf.report import markdown_table


RECORD, REPORT = Path("benchmarks/levers.json"), Path("benchmarks/LEVERS.md")
PLAIN = "plain"
SOURCE = ("estimate", "init")  # options of the sources, not of a stage
MERGE: dict[str, dict[str, Any]] = {
    "kernel learning rate 3e-3": {"kernel_learning_rate": 3e-3},
    "kernel learning rate 3e-2": {"kernel_learning_rate": 3e-2},
    "warm-up of a third": {"warmup_steps": 0.33},
    "head first, a third": {"kernel_delay": 0.33},
    "drop-out of sources 0.2": {"kernel_dropout": 0.2},
    "pull to the anchor": {"kernel_pull": 10.0},
    "pull to 0 or 1": {"kernel_pull": 10.0, "kernel_pull_binary": True},
    "start from RegMean's estimate": {"estimate": "regmean"},
    "start from Fisher's estimate": {"estimate": "fisher"},
    "start from the middle": {"init": 0.5},
    "average of kernel weights 0.95": {"kernel_average": 0.95},
    "distillation 1": {"kernel_distill": 1.0},
}
FINETUNE: dict[str, dict[str, Any]] = {
    "fine-tuning rate 3e-5": {"learning_rate": 3e-5},
    "layer decay 0.75": {"layer_decay": 0.75},
    "L2-SP 0.01": {"l2_sp": 0.01},
    "L2-SP 0.1": {"l2_sp": 0.1},
    "average of all weights 0.95": {"weight_average": 0.95},
    "twice as long": {"num_train_epochs": 2 * STAGES["finetune"]["num_train_epochs"]},
}


def settings_of(folder: str, seed: int, stage: str = "", lever: Mapping[str, Any] | None = None) -> Settings:
    """The settings of the alignment benchmark, two sources, with one lever."""
    own = {key: value for key, value in (lever or {}).items() if key not in SOURCE}
    stages = {name: {**values, **(own if name == stage else {})} for name, values in STAGES.items()}
    sources = {key: lever[key] for key in SOURCE if lever and key in lever}
    options = {
        **DEFAULTS,
        **sources,
        **stages,
        "sources": SOURCES[:2],
        "seed": seed,
        "output_dir": folder,
        "disable_tqdm": None,
    }
    return make_settings(options)


def finetune(model: Any, target: Any, settings: Settings) -> float:
    """Macro F1 on test."""
    set_seed(settings.run.seed)
    trainer = make_trainer(model, target, settings, settings.finetune)
    trainer.train()
    return evaluate(trainer, target, "finetuned")["finetuned_test_macro_f1"]


def run_merge(seed: int, lever: Mapping[str, Any]) -> tuple[Any, Any, float]:
    """The merge stage: model, target, macro F1 on test."""
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(folder, seed, "merge", lever)
        target = load_data(settings)
        set_seed(seed)
        model, figures = merge(target, settings, 0, False)
        return model, target, figures["merged_test_macro_f1"]


def run_seed(seed: int, done: set[tuple[str, int]], chosen: Sequence[str]) -> list[dict[str, Any]]:
    """The chosen levers with one seed, those that are not done."""
    rows = []
    wanted = [(name, lever, "merge") for name, lever in MERGE.items()]
    base: Any = None
    for name, lever, stage in [(PLAIN, {}, "merge"), *wanted, *((n, v, "finetune") for n, v in FINETUNE.items())]:
        if (name, seed) in done or (chosen and name not in (PLAIN, *chosen)):
            continue
        if stage == "finetune" and base is None:
            base = run_merge(seed, {})
        model, target, merged = run_merge(seed, lever) if stage == "merge" else base
        if name == PLAIN:
            base = copy.deepcopy(model), target, merged
        with tempfile.TemporaryDirectory() as folder:
            tuned = settings_of(folder, seed, "finetune", lever if stage == "finetune" else {})
            score = finetune(copy.deepcopy(model), target, tuned)
        rows.append({"lever": name, "stage": stage, "seed": seed, "merged": merged, "finetuned": score})
        print(rows[-1], flush=True)
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line a lever; paired differences to the plain run of the same seed."""
    score = {(row["lever"], row["seed"]): row for row in rows}
    lines = []
    for name in dict.fromkeys(row["lever"] for row in rows):
        seeds = [seed for lever, seed in score if lever == name and (PLAIN, seed) in score]
        line = [name]
        for stage in ("merged", "finetuned"):
            line.append(interval([score[name, seed][stage] for seed in seeds]))
            gains = [score[name, seed][stage] - score[PLAIN, seed][stage] for seed in seeds]
            line.append("-" if name == PLAIN or not any(gains) else interval(gains))
        lines.append([*line, str(len(seeds))])
    header = ["lever", "after the merge stage", "paired to plain", "fine-tuned", "paired to plain", "seeds"]
    return markdown_table(header, lines)


def main() -> None:
    """Run what is missing and write the table."""
    given = read_options(sys.argv[1:])
    seeds = [int(seed) for seed in given.get("seeds", range(5))]
    hf_logging.set_verbosity_error()
    datasets.disable_progress_bars()
    rows: list[dict[str, Any]] = json.loads(RECORD.read_text()) if RECORD.is_file() else []
    for seed in seeds:
        rows += run_seed(seed, {(row["lever"], row["seed"]) for row in rows}, given.get("levers", ()))
        RECORD.write_text(json.dumps(rows, indent=1))
    machine = f"{os.cpu_count()} CPU cores, torch {torch.__version__}, {platform.machine()}"
    setting = "MobileNetV2, ImageNet + fundus -> fundus_dr, 353 training images of 64 px, 5 + 5 epochs"
    REPORT.write_text(
        f"# Levers, one at a time\n\nPrinted by `recipes/benchmark_levers.py` ({machine}). {setting}; macro F1 on 150 "
        f"test images, mean over seeds with its 95 % bootstrap interval.\n\n{table(rows)}\n"
    )
    print(table(rows))


if __name__ == "__main__":
    main()
