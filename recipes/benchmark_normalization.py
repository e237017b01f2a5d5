"""What the collapse does about normalisation, on real images, several seeds: benchmarks/NORMALIZATION.md.

    MEDMERGE_DATA=... python recipes/benchmark_normalization.py [--seeds 0 1 2 3 4]

BatchNorm: statistics of the merge stage kept, or re-estimated. No BatchNorm (a tiny EfficientNet with GroupNorm and a
tiny ViT, trained on fundus photographs and chest X-rays): nothing, or REPAIR; for kernel weights that were learned and
for the plain average of aligned sources.
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
import timm
import torch
from benchmark_alignment import DEFAULTS, SOURCES, STAGES, TARGETS, interval
from building import load_data, make_model
from settings import Settings, make_settings, read_options, several
from train import evaluate, make_trainer
from transformers import set_seed
from transformers.utils import logging as hf_logging

from medmerge_hf import single_source_model
from medmerge_hf.report import markdown_table


RECORD, REPORT = Path("benchmarks/normalization.json"), Path("benchmarks/NORMALIZATION.md")
TINY = ("test_efficientnet_gn", "test_vit")
# Tiny networks learn with larger steps.
TINY_STAGES = {
    "merge": {**STAGES["merge"], "learning_rate": 3e-3},
    "finetune": {**STAGES["finetune"], "learning_rate": 1e-3},
}
SOURCE_TASKS = {"fundus_odir": 0.3, "pneumoniamnist_28.npz": 0.2}  # target -> share of its labels


def settings_of(folder: str, seed: int, **options: Any) -> Settings:
    """The settings of the alignment benchmark with other sources and target."""
    own = {**DEFAULTS, **STAGES, **options, "seed": seed, "output_dir": folder, "disable_tqdm": None}
    return make_settings(own)


def train_source(architecture: str, task: str, fraction: float, folder: Path) -> str:
    """Train a tiny network from scratch on a real task; its folder."""
    place = folder / f"{architecture}_{task.split('.')[0]}"
    stage = {"num_train_epochs": 10, "learning_rate": 2e-3}
    with tempfile.TemporaryDirectory() as work:
        options = {"sources": ["-"], "data": TARGETS + task, "label_fraction": fraction, "finetune": stage}
        settings = settings_of(work, 0, **options, image_size=64)
        target = load_data(settings)
        torch.manual_seed(len(task))
        model = single_source_model(timm.create_model(architecture), num_labels=len(target.classes), image_size=64)
        trainer = make_trainer(model, target, settings, settings.finetune)
        trainer.train()
        model.save_pretrained(place)
        print(architecture, task, evaluate(trainer, target, "source")["source_validation_macro_f1"], flush=True)
    return str(place)


def tuned(model: Any, target: Any, settings: Settings) -> tuple[float, float]:
    """Macro F1 on test before and after fine-tuning."""
    set_seed(settings.run.seed)
    trainer = make_trainer(model, target, settings, settings.finetune)
    before = evaluate(trainer, target, "merged")["merged_test_macro_f1"]
    trainer.train()
    return before, evaluate(trainer, target, "finetuned")["finetuned_test_macro_f1"]


def run_pair(name: str, seed: int, learned: bool, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One merge, collapsed without and with what is measured."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(folder, seed, **options)
        target = load_data(settings)
        set_seed(seed)
        model = make_model(settings, target)
        trainer = make_trainer(model, target, settings, settings.merge)
        if learned:
            trainer.train()
        for mended in (False, True):
            other = copy.deepcopy(model)
            set_seed(seed)
            batches = trainer.get_train_dataloader() if mended else None
            other.collapse(batches, repair=mended and name != "mobilenetv2")
            before, after = tuned(other, target, settings)
            weights = "learned" if learned else "average, aligned"
            row = {"network": name, "weights": weights, "mended": mended, "seed": seed}
            rows.append({**row, "merged": before, "finetuned": after})
            print(rows[-1], flush=True)
    return rows


def run_seed(seed: int, tiny: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """All networks with one seed."""
    rows = run_pair("mobilenetv2", seed, True, {"sources": SOURCES[:2]})
    for name, sources in tiny.items():
        own = {"sources": list(sources), "architecture": None, "data": TARGETS + "breast_ultrasound", **TINY_STAGES}
        rows += run_pair(name, seed, True, own)
        rows += run_pair(name, seed, False, {**own, "init": [0.5], "align": "activations"})
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line a network and kind of weights, without and with; paired differences."""
    lines = []
    for name, weights in dict.fromkeys((row["network"], row["weights"]) for row in rows):
        own = [row for row in rows if (row["network"], row["weights"]) == (name, weights)]
        what = "statistics re-estimated" if name == "mobilenetv2" else "REPAIR"
        line = [name, weights, what]
        for stage in ("merged", "finetuned"):
            off, on = ({r["seed"]: r[stage] for r in own if r["mended"] == side} for side in (False, True))
            line += [interval(list(off.values())), interval(list(on.values()))]
            line.append(interval([on[seed] - off[seed] for seed in on]))
        lines.append([*line, str(len(on))])
    stages = [f"{part}{stage}" for stage in (", merged", ", fine-tuned") for part in ("without", "with", "paired")]
    return markdown_table(["network", "kernel weights", "what", *stages, "seeds"], lines)


def main() -> None:
    """Run what is missing and write the table."""
    given = read_options(sys.argv[1:])
    seeds = [int(seed) for seed in several(given, "seeds", range(5))]
    hf_logging.set_verbosity_error()
    datasets.disable_progress_bars()
    rows: list[dict[str, Any]] = json.loads(RECORD.read_text()) if RECORD.is_file() else []
    with tempfile.TemporaryDirectory() as folder:
        tiny = {
            name: [train_source(name, task, share, Path(folder)) for task, share in SOURCE_TASKS.items()]
            for name in TINY
        }
        for seed in seeds:
            if seed not in {row["seed"] for row in rows}:
                rows += run_seed(seed, tiny)
                RECORD.write_text(json.dumps(rows, indent=1))
    machine = f"{os.cpu_count()} CPU cores, torch {torch.__version__}, {platform.machine()}"
    REPORT.write_text(
        f"# Normalisation at the collapse\n\nPrinted by `recipes/benchmark_normalization.py` ({machine}). MobileNetV2 "
        "(ImageNet + fundus) -> fundus_dr; test_efficientnet_gn and test_vit (trained there on fundus_odir and "
        "pneumoniamnist) -> breast_ultrasound. 64 px, 5 + 5 epochs; macro F1 on test, mean over seeds with its 95 % "
        f"bootstrap interval.\n\n{table(rows)}\n"
    )
    print(table(rows))


if __name__ == "__main__":
    main()
