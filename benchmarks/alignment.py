"""Alignment x granularity x number of sources on a real target, several seeds: benchmarks/ALIGNMENT.md.

    MEDMERGE_DATA=... python benchmarks/alignment.py [--seeds 0 1 2 3 4] [--option value ...]

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
import torch
from common import CHECKPOINTS, DEFAULTS, SOURCES, STAGES, TARGETS, interval
from transformers import set_seed
from transformers.utils import logging as hf_logging

from medmerge_hf.evaluation.tables import markdown_table
from medmerge_hf.runs.build import load_data
from medmerge_hf.runs.config import pop_list, read_options
from medmerge_hf.runs.settings import make_settings
from medmerge_hf.runs.stages import merge_and_finetune


RECORD, REPORT = Path("benchmarks/alignment.json"), Path("benchmarks/ALIGNMENT.md")

# What differs for the other networks.
NETWORKS: dict[str, dict[str, Any]] = {
    "mobilenetv2": {"sources": SOURCES},
    "resnet18": {
        "architecture": "resnet18",
        "sources": [
            {"id": f"{CHECKPOINTS}resnet18/{name}.safetensors", "input": "imagenet"}
            for name in ("imagenet_omniart", "fundus_odir")
        ],
    },
    "efficientnet_b0": {
        "architecture": "efficientnet_b0",
        "data": TARGETS + "blood_cells",
        "sources": [
            {"id": f"{CHECKPOINTS}efficientnet_b0/{name}.safetensors", "input": "imagenet"}
            for name in ("mango_leaf_timm", "photo_vs_drawing_torchvision")
        ],
    },
}

ALIGNED = (None, "weights", "activations")

CELL = ("network", "sources", "granularity", "align")


def cells(network: str, granularities: Sequence[str], counts: Sequence[int]) -> list[dict[str, Any]]:
    """The settings that are compared."""
    possible = [count for count in counts if count <= len(NETWORKS[network]["sources"])]
    found = itertools.product(possible, granularities, ALIGNED)
    return [{"network": network, "sources": s, "granularity": grain, "align": align} for s, grain, align in found]


def run_one(cell: Mapping[str, Any], seed: int, given: Mapping[str, Any]) -> dict[str, float]:
    """One merge: macro F1 on test after each stage."""
    with tempfile.TemporaryDirectory() as folder:
        stages = {stage: {**STAGES[stage], **given.get(stage, {})} for stage in STAGES}
        network = NETWORKS[cell["network"]]
        options = {**DEFAULTS, **network, **given, **stages, "seed": seed, "output_dir": folder}
        options |= {"granularity": cell["granularity"], "align": cell["align"]}
        options["sources"] = network["sources"][: cell["sources"]]
        settings = make_settings(options)
        target = load_data(settings)
        set_seed(seed)
        figures = merge_and_finetune(target, settings)[1]
        shutil.rmtree(folder, ignore_errors=True)
        Path(folder).mkdir()
    return {key: value for key, value in figures.items() if key.endswith("macro_f1")}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line a cell; after both stages the paired difference to the same cell without alignment."""
    scores = {(tuple(row[key] for key in CELL), row["seed"]): row for row in rows}
    cells = list(dict.fromkeys(cell for cell, _ in scores))
    seeds = sorted({row["seed"] for row in rows})
    lines = []
    for cell in sorted(cells, key=str):
        line = [*map(str, cell[:-1]), cell[-1] or "off"]
        for stage in ("merged", "finetuned"):
            key = f"{stage}_test_macro_f1"
            line.append(interval([scores[cell, seed][key] for seed in seeds if (cell, seed) in scores]))
            plain = (*cell[:-1], None)
            shared = [seed for seed in seeds if (cell, seed) in scores and (plain, seed) in scores]
            gains = [scores[cell, seed][key] - scores[plain, seed][key] for seed in shared]
            line.append("-" if cell[-1] is None else interval(gains))
        lines.append([*line, str(sum((cell, seed) in scores for seed in seeds))])
    header = ["network", "sources", "granularity", "alignment", "after the merge stage", "paired to off", "fine-tuned"]
    return markdown_table([*header, "paired to off", "seeds"], lines)


def main() -> None:
    """Run what is missing and write the table."""
    given = read_options(sys.argv[1:])
    seeds = [int(seed) for seed in pop_list(given, "seeds", range(5))]
    counts = [int(count) for count in pop_list(given, "counts", (2, 3, 4))]
    grains, networks = pop_list(given, "granularities", ["layer", "filter"]), pop_list(given, "networks", NETWORKS)
    hf_logging.set_verbosity_error()
    datasets.disable_progress_bars()
    rows: list[dict[str, Any]] = json.loads(RECORD.read_text()) if RECORD.is_file() else []
    chosen = [cell for network in networks for cell in cells(network, grains, counts)]
    for seed, cell in itertools.product(seeds, chosen):
        place = {**cell, "seed": seed, "given": {k: v for k, v in given.items() if v}}
        if any(place.items() <= row.items() for row in rows):
            continue
        rows.append({**place, **run_one(cell, seed, given)})
        RECORD.write_text(json.dumps(rows, indent=1))
        print(rows[-1], flush=True)
    machine = f"{os.cpu_count()} CPU cores, torch {torch.__version__}, {platform.machine()}"
    text = f"# Alignment, granularity, number of sources\n\nPrinted by `benchmarks/alignment.py` ({machine})."
    data = "MobileNetV2 (torchvision ImageNet, then fundus, TF ImageNet, faces) and ResNet-18 (ImageNet, fundus) -> "
    more = "fundus_dr (353 training images, 150 for the test); EfficientNet-B0 (mango leaves, drawings) -> blood_cells"
    size = "(236, 101; the two share an initialisation, so weights match where they are). 64 px, 5 + 5 epochs"
    note = f"{data}{more} {size}; macro F1 on test, mean over seeds with its 95 % bootstrap interval."
    REPORT.write_text(f"{text} {note}\n\n{table(rows)}\n")
    print(table(rows))


if __name__ == "__main__":
    main()
