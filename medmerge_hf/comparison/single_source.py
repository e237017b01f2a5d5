"""What a user does with one source: fine-tuning, LP-FT, WiSE-FT."""

from typing import Any

import torch

from ..evaluation.ranking import probe_score
from ..networks.batch_norm import recalibrate_batch_norm
from ..runs.build import training_features
from ..training.single_source import freeze_backbone
from .averaging import average
from .job import Job, _train, validation_f1, weights_of
from .run_store import Outcome


SHARES = (0.25, 0.5, 0.75)


# Of each source alone


def fine_tuned(job: Job) -> Outcome:
    """Everything from the first step on."""
    trainer = job.trainer(job.single(), "both")
    trainer.train()
    return job.outcome(trainer, {"end": weights_of(trainer.model)})


def lp_ft(job: Job) -> Outcome:
    """The head first (Kumar et al., arXiv 2202.10054)."""
    model = job.single()
    trainer = job.trainer(freeze_backbone(model), "merge")
    trainer.train()
    probed = weights_of(model)
    trainer = job.trainer(freeze_backbone(model, False), "finetune")
    trainer.train()
    return job.outcome(trainer, {"start": probed, "end": weights_of(model)})


def reestimated(job: Job) -> Outcome:
    """LP-FT with BatchNorm statistics re-estimated in between, as a merge has them at its collapse."""
    stages: Any = job.stages
    model = job.single()
    model.network.load_state_dict(stages.states["start"])
    recalibrate_batch_norm(model.network, job.images(model))
    return _train(job, model, "finetune")


def wise_ft(job: Job) -> Outcome:
    """Between the linear probe and LP-FT's end, where validation is best (Wortsman et al., arXiv 2109.01903)."""
    stages: Any = job.stages
    start, end = stages.states["start"], stages.states["end"]
    states = {share: average([start, end], [1 - share, share]) for share in SHARES}
    found = {share: job.validation_of(state) for share, state in states.items()}
    best = max(found, key=lambda share: found[share])
    return job.of_state(states[best], share=best) if found[best] >= validation_f1(stages) else stages


def promise(job: Job) -> Outcome:
    """What a linear probe promises of a source before any training; its features are kept to be compared."""
    features, labels = training_features(job.single(), job.target, job.settings.run.seed)
    states = {"features": {"train": torch.from_numpy(features).float()}}
    return Outcome({}, {}, states, {"probe": probe_score(features, labels)})
