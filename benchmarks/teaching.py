"""What the choices of the teaching do: sure teachers, other beginnings, more steps, averages of weights.

    python benchmarks/teaching.py CONFIG --output_dir COMPARISON [--seed 0] [--changes CHANGE ...] [--option value]

CONFIG is one of `medmerge compare` and COMPARISON its output folder, whose fine-tuned sources teach (they are trained
where they are missing). Each change is one training of the method `distilled` with that change alone, on the first
target, or with several joined by ` + `. Adds rows to teaching/teaching.csv and prints the table of all of its rows.
"""

import argparse
import contextlib
import copy
import csv
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import append_rows
from torch import nn
from transformers import TrainerCallback

from medmerge_hf.comparison.compare import make_plan
from medmerge_hf.comparison.job import Job
from medmerge_hf.comparison.methods.distilling import of_sources, probed, tuned_sources, validated
from medmerge_hf.comparison.methods.single_source import FINE_TUNED, PROBE
from medmerge_hf.comparison.registry import METHODS
from medmerge_hf.comparison.run_store import Outcome
from medmerge_hf.comparison.runner import Group
from medmerge_hf.evaluation.tables import markdown_table
from medmerge_hf.modeling_medmerge import MedMergeModel
from medmerge_hf.runs.config import read_options
from medmerge_hf.runs.options import STAGES
from medmerge_hf.runs.settings import make_settings
from medmerge_hf.runs.teachers import held_out
from medmerge_hf.training.distillation import Teachers


PLAIN = "as it is"
CALIBRATED, OTHER, TRAINED = "calibrated teachers", "from the other source", "from a trained source"
TWICE, ALONE = "twice as long", "alone on labels, three times as long"
CHANGES = (PLAIN, CALIBRATED, OTHER, TRAINED, TWICE, ALONE)

LONGER = {TWICE: 2, ALONE: 3}  # alone takes the steps of two sources and of the student together

DECAYS = (0.99, 0.995)

FIGURES = ("macro_f1", "auroc", "ece", "brier")


class Softened(nn.Module):
    """A network whose logits are divided by a temperature."""

    def __init__(self, model: MedMergeModel, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature
        self.image_processor, self.config = model.image_processor, model.config

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Its logits, `[N, K]`."""
        return self.model(pixel_values)["logits"] / self.temperature


class Average(TrainerCallback):
    """Exponential moving average of weights and statistics over steps."""

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.state: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Move towards the weights of this step."""
        now = model.state_dict()
        if not self.state:
            self.state = {name: tensor.clone() for name, tensor in now.items()}
        for name, tensor in now.items():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor, 1 - self.decay)
            else:
                self.state[name].copy_(tensor)


def make_job(words: list[str], seed: int, changes: list[str], own: str) -> Job:
    """The job of `distilled`, with more steps where changes say so, on the fine-tuned sources of a comparison."""
    plan = make_plan(read_options(words))
    setting = plan.settings[0]
    group = Group(plan, seed, setting.target)
    for name in (FINE_TUNED, PROBE):
        for source in setting.sources():
            group.run_once(setting, METHODS[name], source)
    options = copy.deepcopy(plan.key(setting, "distilled", seed)["options"])
    for stage in STAGES:
        for change in changes:
            options[stage]["max_steps"] *= LONGER.get(change, 1)
    settings = make_settings({**options, "seed": seed, "output_dir": own})
    kept = {name: group._kept(setting, name, None) for name in (FINE_TUNED, PROBE)}
    return Job(settings, group._load(settings), kept)


def teachers_for(job: Job, changes: list[str]) -> Teachers | None:
    """All fine-tuned sources, as sure as they are or as the validation images allow; none where labels alone teach."""
    if ALONE in changes:
        return None
    if CALIBRATED not in changes:
        return of_sources(job)
    tuned = tuned_sources(job)
    return Teachers([Softened(model, held_out(model, job.target, job.settings).temperature) for model in tuned])


def student_for(job: Job, changes: list[str]) -> MedMergeModel:
    """The probe's source, or what changes put in its place."""
    place = probed(job)
    if OTHER in changes:
        place = 1 - place
    if ALONE in changes:
        place = validated(job)
    if TRAINED in changes:
        return job.trained(job.earlier[FINE_TUNED][place].states["end"], place)
    return job.single(place)


def train(job: Job, changes: list[str]) -> dict[str, Outcome]:
    """What the network predicts after its last step, and with averages of its weights."""
    student = student_for(job, changes)
    trainer = job.trainer(student, "both", teachers_for(job, changes))
    averages = [Average(decay) for decay in DECAYS]
    for average in averages:
        trainer.add_callback(average)
    trainer.train()
    found = {"last step": job.outcome(trainer)}
    for average in averages:
        student.load_state_dict(average.state)
        found[f"average of {average.decay}"] = job.outcome(trainer)
    return found


def agreement(outcome: Outcome, teachers: list[Outcome]) -> float:
    """Share of the test images of which a network says what the mean of its teachers says."""
    mean = sum(teacher.probabilities["test"] for teacher in teachers)
    return float((outcome.probabilities["test"].argmax(axis=1) == np.asarray(mean).argmax(axis=1)).mean())


def rows(job: Job, seed: int, change: str, found: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    """A line for each way to take the weights."""
    lines = []
    for weights, outcome in found.items():
        scores = {name: f"{outcome.scores('test')[name]:.3f}" for name in FIGURES}
        agree = f"{agreement(outcome, list(job.earlier[FINE_TUNED])):.3f}"
        lines.append({"seed": seed, "change": change, "weights": weights, **scores, "agreement": agree})
    return lines


def table(file: Path) -> str:
    """Figures of each change, seed by seed."""
    found: dict[tuple[str, str], list[dict[str, str]]] = {}
    with file.open(newline="") as lines:
        for line in csv.DictReader(lines):
            found.setdefault((line["change"], line["weights"]), []).append(line)
    names = ("seed", *FIGURES, "agreement")
    rows = [[*place, *(", ".join(line[name] for line in lines) for name in names)] for place, lines in found.items()]
    return markdown_table(["change", "weights", *names], rows)


def main() -> None:
    """Train what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--changes", nargs="+", default=list(CHANGES), help=f"of {', '.join(CHANGES)}, joined by ' + '"
    )
    parser.add_argument("--csv", type=Path, default=Path(__file__).parent / "teaching" / "teaching.csv")
    given, rest = parser.parse_known_args()
    words = [given.config, "--output_dir", given.output_dir, "--seeds", str(given.seed), *rest]
    for change in given.changes:
        parts = change.split(" + ")
        if unknown := set(parts) - set(CHANGES):
            parser.error(f"unknown changes {sorted(unknown)}; there are {', '.join(CHANGES)}")
        with tempfile.TemporaryDirectory() as own, contextlib.redirect_stdout(None):
            job = make_job(words, given.seed, parts, own)
            lines = rows(job, given.seed, change, train(job, parts))
        append_rows(given.csv, lines, list(lines[0]))
    print(table(given.csv))


if __name__ == "__main__":
    main()
