"""What a user does with one source: fine-tuning and LP-FT; and what linear probes promise of it, and of all."""

import numpy as np
import torch

from ...evaluation.ranking import probe_score
from ...networks.batch_norm import recalibrate_batch_norm
from ...runs.build import training_features
from ...runs.rank import ranking_of
from ...sources.reference import stated_name
from ...training.single_source import freeze_backbone
from ..job import Job, train, weights_of
from ..registry import method
from ..run_store import Outcome


FINE_TUNED, LP_FT, PROBE, TOGETHER = "fine-tuned", "LP-FT", "ranking", "ranking of all"


@method(FINE_TUNED, each=True, usual=True)
def fine_tuned(job: Job) -> Outcome:
    """Everything from the first step on."""
    trainer = job.trainer(job.single(), "both")
    trainer.train()
    return job.outcome(trainer, {"end": weights_of(trainer.model)})


@method(LP_FT, each=True, usual=True)
def lp_ft(job: Job) -> Outcome:
    """The head first (Kumar et al., arXiv 2202.10054)."""
    model = job.single()
    trainer = job.trainer(freeze_backbone(model), "merge")
    trainer.train()
    probed, steps = weights_of(model), trainer.state.global_step
    trainer = job.trainer(freeze_backbone(model, False), "finetune")
    trainer.train()
    return job.outcome(trainer, {"start": probed, "end": weights_of(model)}, steps=steps, head_steps=steps)


@method("LP-FT re-estimated", each=True, needs=(LP_FT,))
def reestimated(job: Job) -> Outcome:
    """LP-FT with BatchNorm statistics re-estimated in between, as a merge has them at its collapse."""
    (tuned,) = job.earlier[LP_FT]
    model = job.trained(tuned.states["start"])
    recalibrate_batch_norm(model.network, job.images(model))
    return train(job, model, "finetune", tuned.notes["head_steps"])


@method(PROBE, each=True, tries_rates=False, predicts=False)
def ranking(job: Job) -> Outcome:
    """What a linear probe promises of a source before any training; its features are kept to be compared."""
    features, labels = training_features(job.single(), job.target, job.settings.run.seed)
    states = {"features": {"train": torch.from_numpy(features).float()}}
    return Outcome({}, {}, states, {"probe": probe_score(features, labels)})


@method(TOGETHER, needs=(PROBE,), tries_rates=False, predicts=False)
def ranking_of_all(job: Job) -> Outcome:
    """What a probe of all sources' features side by side gains over the best source's, as `medmerge rank` says."""
    features = [outcome.states["features"]["train"].double().numpy() for outcome in job.earlier[PROBE]]
    seed = job.settings.run.seed
    labels = np.asarray(job.target["train"].shuffle(seed=seed)["label"])  # in the order of the features
    found = ranking_of([stated_name(source) for source in job.settings.source.sources], features, labels, seed)
    gains = {"log_loss": found.loss_gain, "macro_f1": found.f1_gain}
    return Outcome({}, {}, notes={name: [one.mean, one.low, one.high] for name, one in gains.items()})
