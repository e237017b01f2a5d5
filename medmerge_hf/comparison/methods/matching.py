"""What others trained, with the shares of its classes matched on images without labels; nothing is trained."""

import numpy as np

from ...runs.stages import match_on_unlabelled
from ..job import Job, validation_f1
from ..registry import method
from ..run_store import Outcome
from .distilling import SELF_TAUGHT, TAUGHT, TAUGHT_MERGE, probed
from .single_source import FINE_TUNED, PROBE


@method(
    "best single source matched",
    needs=(FINE_TUNED,),
    tries_rates=False,
    control="what teaching does beside the shares",
    of=f"{TAUGHT_MERGE} matched",
)
def sourcematched(job: Job) -> Outcome:
    """The fine-tuned source that is best on validation."""
    tuned = job.earlier[FINE_TUNED]
    best = int(np.argmax([validation_f1(outcome) for outcome in tuned]))
    return matched(job, tuned[best], best)


@method(f"{TAUGHT} matched", needs=(TAUGHT, PROBE), tries_rates=False)
def taughtmatched(job: Job) -> Outcome:
    """The source taught by all sources."""
    return matched(job, job.earlier[TAUGHT][0], probed(job))


@method(
    f"{SELF_TAUGHT} matched",
    needs=(SELF_TAUGHT, PROBE),
    tries_rates=False,
    control="what the other sources' knowledge does",
    of=f"{TAUGHT} matched",
)
def self_taughtmatched(job: Job) -> Outcome:
    """The source taught by seeds of its own."""
    return matched(job, job.earlier[SELF_TAUGHT][0], probed(job))


@method(f"{TAUGHT_MERGE} matched", needs=(TAUGHT_MERGE, PROBE), tries_rates=False)
def mergematched(job: Job) -> Outcome:
    """The merge taught by all sources."""
    return matched(job, job.earlier[TAUGHT_MERGE][0], probed(job))


def matched(job: Job, outcome: Outcome, place: int) -> Outcome:
    """What a trained network predicts once its classes have the shares of the labels.

    Args:
        job: on a target with images without a label.
        outcome: of the training, with the state `end`.
        place: of the source that the network was made of.
    """
    trainer = job.trainer(job.trained(outcome.states["end"], place), "finetune")
    match_on_unlabelled(trainer, job.target)
    return job.outcome(trainer, steps=outcome.notes["steps"])
