"""Kernel weights that also re-route channels, learned from features, then folded: benchmarks/FOLDING.md.

    MEDMERGE_DATA=... python benchmarks/folding.py [--seeds 0 1] [--starts imagenet fundus] [--arms folded noise ...]

Finished runs are kept in benchmarks/folding/runs.csv and not repeated. `--rates 1e-3 3e-3` only learns from features,
with these rates, and prints how well they match.
"""

import csv
import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from common import CHECKPOINTS, DEFAULTS, TARGETS, append_rows, interval
from foldable import Foldable, Whole, features_of_all, noise_like
from measure import machine
from sklearn.metrics import log_loss
from torch import Tensor, nn
from transformers import get_cosine_schedule_with_warmup, set_seed
from transformers.utils import logging as hf_logging

from medmerge_hf.comparison.job import Job
from medmerge_hf.evaluation.tables import markdown_table
from medmerge_hf.networks.backbone import backbone_state, load_backbone
from medmerge_hf.networks.preprocessing import resolve_preprocessing
from medmerge_hf.runs.build import load_data
from medmerge_hf.runs.config import pop_list, read_options
from medmerge_hf.runs.settings import Settings, make_settings


RECORD = Path("benchmarks/folding/runs.csv")

SOURCES = {"imagenet": "imagenet_omniart", "fundus": "fundus_odir"}

PLAIN, FOLDED, NOISE, DISTILLED = "fine-tuned", "folded", "noise", "distilled"

ARMS = (PLAIN, FOLDED, NOISE, DISTILLED)

STEPS, BATCH = 96, 32

HELD_OUT, PROBED = 256, 2048  # images to judge by; views for the first statistics and read-out

RATES = {FOLDED: 3e-3, NOISE: 3e-3, DISTILLED: 3e-4}

FLOOR = 0.05  # of a feature's scale, relative to the mean one, that is added to it

RIDGE = 1e-2  # of the first read-out, relative to the features' variance

KEYS, FIGURES = ("start", "arm", "seed"), ("macro_f1", "auroc", "log_loss", "match_imagenet", "match_fundus")

FIELDS = (*KEYS, *FIGURES, "seconds_features", "seconds_labels")


@dataclasses.dataclass
class Lessons:
    """Images without labels and the sources' standardised features of them.

    Attributes:
        images: `[N, C, H, W]`, float16, augmented.
        wanted: `[N, S * D]`.
        held: as `images`, not augmented, of other images, from which nothing learns.
        held_wanted: `[M, S * D]`.
    """

    images: Tensor
    wanted: Tensor
    held: Tensor
    held_wanted: Tensor


def make_lessons(target: Any, teachers: Sequence[Any], count: int, held_out: int = HELD_OUT) -> Lessons:
    """What the sources say of a target's images without labels; each image is in as many views as it takes.

    Args:
        target: with `unlabelled`.
        teachers: the sources, as models of the library.
        count: views to learn from.
        held_out: images to judge by.
    """
    set_seed(0)
    pixels, pool = resolve_preprocessing(teachers[0]), target.unlabelled.shuffle(seed=0)["image"]
    augment = pixels.train_transform()
    held = torch.stack([pixels.eval_transform(image) for image in pool[:held_out]])
    rest = pool[held_out:]
    images = torch.stack([augment(rest[place % len(rest)]).half() for place in range(count)])
    found = [[features_of_all(teacher.network, part) for part in (images, held)] for teacher in teachers]
    wanted, held_wanted = (torch.cat([standardised(own[place], own[0]) for own in found], dim=1) for place in range(2))
    return Lessons(images, wanted, held, held_wanted)


def standardised(features: Tensor, of: Tensor) -> Tensor:
    """Features by the means and scales that others have; those that hardly vary stay small."""
    scale = of.std(0)
    return (features - of.mean(0)) / (scale + FLOOR * scale.mean())


def best_readout(features: Tensor, wanted: Tensor) -> nn.Linear:
    """The linear map from features to what is wanted of them, by ridge regression: where a read-out starts."""
    mean = features.mean(0)
    centred = features - mean
    gram = centred.T @ centred
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram))
    readout = nn.Linear(features.shape[1], wanted.shape[1])
    with torch.no_grad():
        readout.weight.copy_(torch.linalg.solve(gram, centred.T @ (wanted - wanted.mean(0))).T)
        readout.bias.copy_(wanted.mean(0) - readout.weight @ mean)
    return readout


def learn(learner: nn.Module, readout: nn.Linear, lessons: Lessons, rate: float, seed: int) -> None:
    """Match the sources' features, each view once, in batches, on one cosine.

    Args:
        learner: images -> features; its parameters that require gradients learn, and the read-out's.
        readout: from its features to the sources'.
        lessons: what is learned.
        rate: of AdamW at its highest.
        seed: of the order.
    """
    parameters = [p for p in (*learner.parameters(), *readout.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    order = torch.randperm(len(lessons.images), generator=torch.Generator().manual_seed(seed)).split(BATCH)
    schedule = get_cosine_schedule_with_warmup(optimizer, len(order) // 10, len(order))
    learner.train()
    for chosen in order:
        predicted = readout(learner(lessons.images[chosen].float()))
        (predicted - lessons.wanted[chosen]).square().mean().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    learner.eval()


def taught(job: Job, arm: str, lessons: Lessons, rate: float) -> tuple[Any, dict[str, float]]:
    """The plain network that one way of learning from features gives, and how well its features match.

    Args:
        job: with the start as the first of its sources.
        arm: `FOLDED`, `NOISE` or `DISTILLED`.
        lessons: what is learned.
        rate: of learning.
    """
    seed, model = job.settings.run.seed, job.merging(align="activations" if arm == FOLDED else None)
    anchor, other = model.merged_network.source_tensors()
    first = lessons.images[:PROBED].float()
    network = model.collapse(first[:HELD_OUT].split(BATCH)).network
    readout = best_readout(features_of_all(network, first), lessons.wanted[:PROBED])
    if arm == DISTILLED:
        learn(Whole(network), readout, lessons, rate, seed)
    else:
        learner = Foldable(network, [anchor, noise_like(other, seed) if arm == NOISE else other])
        learn(learner, readout, lessons, rate, seed)
        network = learner.fold()
    return network, matched(network, readout, lessons)


@torch.no_grad()
def matched(network: Any, readout: nn.Linear, lessons: Lessons) -> dict[str, float]:
    """Mean square of what is left of each source's standardised features, on images that nothing learned from."""
    errors = (readout(features_of_all(network, lessons.held)) - lessons.held_wanted).square().mean(0)
    parts = errors.chunk(len(SOURCES))
    return {f"match_{name}": float(part.mean()) for name, part in zip(SOURCES, parts, strict=True)}


def settings_of(start: str, seed: int, folder: str, given: Mapping[str, Any]) -> Settings:
    """The settings of a run, the source that it starts from as the first."""
    names = [start, *(name for name in SOURCES if name != start)]
    sources = [{"id": f"{CHECKPOINTS}resnet18/{SOURCES[name]}.safetensors", "input": "imagenet"} for name in names]
    stage: dict[str, Any] = {"max_steps": STEPS, "learning_rate": 3e-4, "warmup_steps": 0.1}
    stage |= {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    own = {"architecture": "resnet18", "sources": sources, "class_priors": True, "seed": seed}
    own |= {"output_dir": folder, "unlabelled": TARGETS + "fundus_odir"}
    stages = {name: {**stage, **given.get(name, {})} for name in ("merge", "finetune")}
    return make_settings({**DEFAULTS, **own, **given, **stages})


def run_one(job: Job, arm: str, lessons: Lessons) -> dict[str, Any]:
    """The figures of one way to a network, fine-tuned on the labels."""
    figures: dict[str, float] = {}
    begin = time.perf_counter()
    model = job.single()
    if arm != PLAIN:
        network, figures = taught(job, arm, lessons, RATES[arm])
        load_backbone(model.network, backbone_state(network))
    middle = time.perf_counter()
    trainer = job.trainer(model, "finetune")
    trainer.train()
    outcome, seconds = job.outcome(trainer, splits=("test",)), time.perf_counter() - middle
    labels, found = outcome.labels["test"], outcome.scores("test")
    priors = np.bincount(job.target["train"]["label"])
    likely = outcome.probabilities["test"] * priors
    figures |= {name: found[name] for name in ("macro_f1", "auroc")}
    figures["log_loss"] = log_loss(labels, likely / likely.sum(1, keepdims=True), labels=range(len(priors)))
    times = {"seconds_features": middle - begin if arm != PLAIN else 0.0, "seconds_labels": seconds}
    return {name: f"{value:.4f}" for name, value in (figures | times).items()}


def read_rows() -> list[dict[str, str]]:
    """Finished runs."""
    return list(csv.DictReader(RECORD.open())) if RECORD.is_file() else []


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """One line a run."""
    ordered = sorted(rows, key=lambda row: (row["start"], ARMS.index(row["arm"]), int(row["seed"])))
    return markdown_table(FIELDS, [[row[name] or "-" for name in FIELDS] for row in ordered])


def gains(rows: Sequence[Mapping[str, str]]) -> str:
    """Folded against each other arm of the same start and seed: mean, from three seeds on with its interval."""
    scores, lines = {tuple(row[key] for key in KEYS): row for row in rows}, []
    for start in SOURCES:
        for arm in (name for name in ARMS if name != FOLDED):
            seeds = [seed for s, a, seed in scores if (s, a) == (start, FOLDED) and (start, arm, seed) in scores]
            pairs = [(scores[start, FOLDED, seed], scores[start, arm, seed]) for seed in seeds]
            cells = [
                _mean([float(ours[f]) - float(theirs[f]) for ours, theirs in pairs]) for f in FIGURES[:3] if pairs
            ]
            lines += [[start, arm, *cells, str(len(seeds))]] if pairs else []
    return markdown_table(["start", "folded minus", *FIGURES[:3], "seeds"], lines)


def _mean(values: Sequence[float]) -> str:
    """With its interval, where there are enough seeds for one."""
    return interval(values) if len(values) > 2 else f"{np.mean(values):.3f}"


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing and print the tables.

    Args:
        argv: instead of the command line's.
    """
    given = read_options(sys.argv[1:] if argv is None else argv)
    seeds = [int(seed) for seed in pop_list(given, "seeds", range(2))]
    starts, arms = pop_list(given, "starts", SOURCES), pop_list(given, "arms", ARMS)
    rates = [float(rate) for rate in pop_list(given, "rates", ())]
    hf_logging.set_verbosity_error()
    datasets.disable_progress_bars()
    rows = read_rows()
    done = {tuple(row[key] for key in KEYS) for row in rows}
    wanted = [(start, arm, str(seed)) for seed in seeds for start in starts for arm in arms]
    run_missing([cell for cell in wanted if rates or cell not in done], rates, given)
    print(machine(), table(read_rows()), gains(read_rows()), sep="\n\n")


def run_missing(cells: Sequence[tuple[str, str, str]], rates: Iterable[float], given: Mapping[str, Any]) -> None:
    """Run, and keep each; or only learn from features with other rates, and print how well they match."""
    if not cells:
        return
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(next(iter(SOURCES)), 0, folder, given)
        target = load_data(settings)
        job = Job(settings, target)
        lessons = make_lessons(target, [job.single(place) for place in range(len(SOURCES))], STEPS * BATCH)
        for start, arm, seed in cells:
            job = Job(settings_of(start, int(seed), folder, given), target)
            for rate in rates:
                print(start, arm, seed, rate, taught(job, arm, lessons, rate)[1], flush=True)
            if not rates:
                row = {**dict(zip(KEYS, (start, arm, seed), strict=True)), **run_one(job, arm, lessons)}
                append_rows(RECORD, [row], FIELDS)


if __name__ == "__main__":
    main()
