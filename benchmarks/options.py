"""Options of the merge stage, one at a time, on a real target, several seeds: benchmarks/OPTIONS.md.

    MEDMERGE_DATA=... python benchmarks/options.py [--seeds 0 1 2 3 4] [--options NAME ...]

Finished runs are kept in benchmarks/options.json and not repeated.
"""

import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from common import DEFAULTS, SOURCES, STAGES, interval
from transformers import set_seed
from transformers.utils import logging as hf_logging

from medmerge_hf.errors import SettingsError
from medmerge_hf.evaluation.tables import markdown_table
from medmerge_hf.runs.build import load_data
from medmerge_hf.runs.config import pop_list, read_options
from medmerge_hf.runs.settings import Settings, make_settings
from medmerge_hf.runs.stages import evaluate, make_trainer, merge


RECORD, REPORT = Path("benchmarks/options.json"), Path("benchmarks/OPTIONS.md")

PLAIN = "plain"

OPTIONS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "kernel_learning_rate 3e-3": {"merge": {"kernel_learning_rate": 3e-3}},
    "kernel_learning_rate 3e-2": {"merge": {"kernel_learning_rate": 3e-2}},
    "kernel_l2 10": {"merge": {"kernel_l2": 10.0}},
    "warmup_steps 0.33": {"merge": {"warmup_steps": 0.33}},
    "init 0.5": {"init": 0.5},
}


def settings_of(folder: str, seed: int, option: Mapping[str, Any]) -> Settings:
    """The settings of the alignment benchmark, two sources, with one option."""
    stages = {name: {**values, **option.get(name, {})} for name, values in STAGES.items()}
    own = {**DEFAULTS, **option, **stages, "sources": SOURCES[:2], "seed": seed, "output_dir": folder}
    return make_settings(own)


def run_one(option: Mapping[str, Any], seed: int) -> dict[str, float]:
    """Both stages: macro F1 on test after each."""
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(folder, seed, option)
        target = load_data(settings)
        set_seed(seed)
        model, merged = merge(target, settings, 0, False)
        set_seed(seed)
        trainer = make_trainer(model, target, settings, settings.finetune)
        trainer.train()
        tuned = evaluate(trainer, target, "finetuned")
    return {"merged": merged["merged_test_macro_f1"], "finetuned": tuned["finetuned_test_macro_f1"]}


def run_missing(rows: list[dict[str, Any]], seeds: Iterable[int], chosen: Sequence[str]) -> None:
    """Run what is not among the rows, the plain merge always, and keep it there.

    Args:
        rows: of finished runs; added to.
        seeds: a run of each option each.
        chosen: names of options.
    """
    if unknown := [name for name in chosen if name not in OPTIONS]:
        raise SettingsError(f"There is no option {unknown[0]!r}; there are {', '.join(OPTIONS)}.")
    for seed in seeds:
        for name in dict.fromkeys((PLAIN, *chosen)):
            if any((row["option"], row["seed"]) == (name, seed) for row in rows):
                continue
            rows.append({"option": name, "seed": seed, **run_one(OPTIONS[name], seed)})
            RECORD.write_text(json.dumps(rows, indent=1))
            print(rows[-1], flush=True)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line an option; paired differences to the plain merge of the same seed."""
    score = {(row["option"], row["seed"]): row for row in rows}
    lines = []
    for name in dict.fromkeys(row["option"] for row in rows):
        seeds = [seed for option, seed in score if option == name and (PLAIN, seed) in score]
        line = [name]
        for stage in ("merged", "finetuned"):
            line.append(interval([score[name, seed][stage] for seed in seeds]))
            gains = [score[name, seed][stage] - score[PLAIN, seed][stage] for seed in seeds]
            line.append("-" if name == PLAIN else interval(gains))
        lines.append([*line, str(len(seeds))])
    header = ["option", "after the merge stage", "paired to plain", "fine-tuned", "paired to plain", "seeds"]
    return markdown_table(header, lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing and write the table.

    Args:
        argv: instead of the command line's.
    """
    given = read_options(sys.argv[1:] if argv is None else argv)
    seeds = [int(seed) for seed in pop_list(given, "seeds", range(5))]
    hf_logging.set_verbosity_error()
    datasets.disable_progress_bars()
    rows: list[dict[str, Any]] = json.loads(RECORD.read_text()) if RECORD.is_file() else []
    run_missing(rows, seeds, pop_list(given, "options", OPTIONS))
    machine = f"{os.cpu_count()} CPU cores, torch {torch.__version__}, {platform.machine()}"
    setting = "MobileNetV2, ImageNet + fundus -> fundus_dr, 353 training images of 64 px, 5 + 5 epochs"
    REPORT.write_text(
        f"# Options of the merge stage, one at a time\n\nPrinted by `benchmarks/options.py` ({machine}). "
        f"{setting}; macro F1 on 150 test images, mean over seeds with its 95 % bootstrap interval.\n\n{table(rows)}\n"
    )
    print(table(rows))


if __name__ == "__main__":
    main()
