"""Alignment x granularity x number of sources on a real target, several seeds: benchmarks/ALIGNMENT.md.

    MEDMERGE_DATA=... python recipes/benchmark_alignment.py [--seeds 0 1 2 3 4] [--option value ...]

Finished runs are kept in benchmarks/alignment.json and not repeated. Further options are those of train.py.
"""

import itertools
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from settings import make_settings, read_options
from train import load_data, merge_and_finetune
from transformers import set_seed
from transformers.utils import logging as hf_logging

from medmerge_hf.report import markdown_table


RECORD, REPORT = Path("benchmarks/alignment.json"), Path("benchmarks/ALIGNMENT.md")
CHECKPOINTS = "${MEDMERGE_DATA}/checkpoints/mobilenetv2/"
TENSORFLOW = {"bn_eps": 1e-3, "padding": "tf_same", "accept": True}
SOURCES: list[Any] = [
    {"id": CHECKPOINTS + "imagenet_torchvision.safetensors", "input": "imagenet"},
    {"id": CHECKPOINTS + "fundus_odir.safetensors", "input": "imagenet"},
    {"id": CHECKPOINTS + "imagenet_tf.safetensors", "input": "unit", "dialect": TENSORFLOW},
    {"id": CHECKPOINTS + "face_eye_tf.safetensors", "input": "symmetric", "dialect": TENSORFLOW},
]
DEFAULTS: dict[str, Any] = {
    "architecture": "mobilenetv2_100",
    "data": "${MEDMERGE_DATA}/targets/fundus_dr",
    "image_size": 64,
    "channels_last": True,
}
STAGES = {
    "merge": {"num_train_epochs": 5, "learning_rate": 1e-3, "kernel_learning_rate": 1e-2},
    "finetune": {"num_train_epochs": 5, "learning_rate": 1e-4, "warmup_steps": 0.1},
}
ALIGNED = (None, "weights", "activations")


def cells(granularities: Sequence[str], counts: Sequence[int]) -> list[dict[str, Any]]:
    """The settings that are compared."""
    found = itertools.product(counts, granularities, ALIGNED)
    return [{"sources": count, "granularity": grain, "align": align} for count, grain, align in found]


def run_one(cell: Mapping[str, Any], seed: int, given: Mapping[str, Any]) -> dict[str, float]:
    """One merge: macro F1 on test after each stage."""
    with tempfile.TemporaryDirectory() as folder:
        stages = {stage: {**STAGES[stage], **given.get(stage, {})} for stage in STAGES}
        options = {**DEFAULTS, **given, **cell, **stages, "seed": seed, "output_dir": folder}
        options["sources"] = SOURCES[: cell["sources"]]
        settings = make_settings(options)
        target = load_data(settings)
        set_seed(seed)
        figures = merge_and_finetune(target, settings)[1]
        shutil.rmtree(folder, ignore_errors=True)
        Path(folder).mkdir()
    return {key: value for key, value in figures.items() if key.endswith("macro_f1")}


def interval(values: Sequence[float]) -> str:
    """Mean over seeds and its 95 % bootstrap interval."""
    draws = np.random.default_rng(0).choice(np.array(values), (2000, len(values))).mean(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{np.mean(values):.3f} ({low:.3f} - {high:.3f})"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line a cell; after both stages the paired difference to the same cell without alignment."""
    cells = list(dict.fromkeys((row["sources"], row["granularity"], row["align"]) for row in rows))
    scores = {(c, row["seed"]): row for row in rows for c in [(row["sources"], row["granularity"], row["align"])]}
    seeds = sorted({row["seed"] for row in rows})
    lines = []
    for cell in sorted(cells, key=str):
        line = [str(cell[0]), cell[1], cell[2] or "off"]
        for stage in ("merged", "finetuned"):
            key = f"{stage}_test_macro_f1"
            line.append(interval([scores[cell, seed][key] for seed in seeds if (cell, seed) in scores]))
            plain = (*cell[:2], None)
            shared = [seed for seed in seeds if (cell, seed) in scores and (plain, seed) in scores]
            gains = [scores[cell, seed][key] - scores[plain, seed][key] for seed in shared]
            line.append("-" if cell[2] is None else interval(gains))
        lines.append([*line, str(sum((cell, seed) in scores for seed in seeds))])
    header = ["sources", "granularity", "alignment", "after the merge stage", "paired to off", "fine-tuned"]
    return markdown_table([*header, "paired to off", "seeds"], lines)


def main() -> None:
    """Run what is missing and write the table."""
    given = read_options(sys.argv[1:])
    seeds = [int(seed) for seed in given.pop("seeds", range(5))]
    grains, counts = given.pop("granularities", ["layer", "filter"]), given.pop("counts", ["2", "3", "4"])
    hf_logging.set_verbosity_error()
    datasets.disable_progress_bars()
    rows: list[dict[str, Any]] = json.loads(RECORD.read_text()) if RECORD.is_file() else []
    for seed, cell in itertools.product(seeds, cells(grains, [int(count) for count in counts])):
        place = {**cell, "seed": seed, "given": {k: v for k, v in given.items() if v}}
        if any(place.items() <= row.items() for row in rows):
            continue
        rows.append({**place, **run_one(cell, seed, {**given, "disable_tqdm": None})})
        RECORD.write_text(json.dumps(rows, indent=1))
        print(rows[-1], flush=True)
    machine = f"{os.cpu_count()} CPU cores, torch {torch.__version__}, {platform.machine()}"
    text = f"# Alignment, granularity, number of sources\n\nPrinted by `recipes/benchmark_alignment.py` ({machine})."
    data = "MobileNetV2 (torchvision ImageNet, then fundus, TF ImageNet, faces) -> fundus_dr"
    size = "353 training images of 64 px, 5 + 5 epochs"
    note = f"{data}, {size}; macro F1 on 150 test images, mean over seeds with its 95 % bootstrap interval."
    REPORT.write_text(f"{text} {note}\n\n{table(rows)}\n")
    print(table(rows))


if __name__ == "__main__":
    main()
