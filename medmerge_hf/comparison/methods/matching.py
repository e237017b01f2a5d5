"""What others trained, with the shares of its classes matched on images without labels; nothing is trained."""

from typing import Any

from ...runs.stages import match_on_unlabelled
from ..job import Job
from ..registry import method
from ..run_store import Outcome
from .distilling import SELF_TAUGHT, TAUGHT, TAUGHT_MERGE, probed, validated
from .single_source import FINE_TUNED, PROBE


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


@method(
    "best single source matched",
    needs=(FINE_TUNED,),
    tries_rates=False,
    control="what teaching does beside the shares",
    of=f"{TAUGHT_MERGE} matched",
)
def single_matched(job: Job) -> Outcome:
    """The fine-tuned source that is best on validation."""
    best = validated(job)
    return matched(job, job.earlier[FINE_TUNED][best], best)


def _register(taught: str, **about: Any) -> None:
    """The matched form of a method that teaches the probe's source, or the merge that begins there."""

    @method(f"{taught} matched", needs=(taught, PROBE), tries_rates=False, **about)
    def taught_matched(job: Job) -> Outcome:
        (outcome,) = job.earlier[taught]
        return matched(job, outcome, probed(job))


_register(TAUGHT)
_register(SELF_TAUGHT, control="what the other sources' knowledge does", of=f"{TAUGHT} matched")
_register(TAUGHT_MERGE)
