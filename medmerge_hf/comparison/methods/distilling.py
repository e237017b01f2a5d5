"""One network that learns what several say of images without labels, and the controls: seeds instead of sources."""

from collections.abc import Sequence

import numpy as np

from ...modeling_medmerge import MedMergeModel
from ...training.distillation import Teachers
from ..job import Job, steps_of, validation_f1, weights_of
from ..registry import OURS, method
from ..run_store import Outcome
from .averaging import mean_outcome
from .merging import BEST, medmerge
from .single_source import FINE_TUNED, PROBE


SEEDS = "ensemble of seeds"

TAUGHT, SELF_TAUGHT, TAUGHT_MERGE = "distilled", "self-trained", f"{OURS} distilled"


def probed(job: Job) -> int:
    """Place of the source of which a linear probe promises most."""
    return int(np.argmax([outcome.notes["probe"] for outcome in job.earlier[PROBE]]))


def validated(job: Job) -> int:
    """Place of the fine-tuned source that is best on validation."""
    return int(np.argmax([validation_f1(outcome) for outcome in job.earlier[FINE_TUNED]]))


@method(
    SEEDS,
    needs=(FINE_TUNED, PROBE),
    tries_rates=False,
    control="what the other sources' knowledge does",
    of="ensemble",
)
def ensemble_of_seeds(job: Job) -> Outcome:
    """As many networks as there are sources, all of the probe's source: what an ensemble gains without others."""
    best = probed(job)
    tuned = [job.earlier[FINE_TUNED][best]]
    for number in range(1, len(job.settings.source.sources)):
        other = job.again(number)
        trainer = other.trainer(other.single(best), "both")
        trainer.train()
        tuned.append(job.outcome(trainer, {"end": weights_of(trainer.model)}))
    whole = mean_outcome(tuned)
    whole.states = {str(number): outcome.states["end"] for number, outcome in enumerate(tuned)}
    return whole


@method(TAUGHT, needs=(FINE_TUNED, PROBE))
def distilled(job: Job) -> Outcome:
    """The probe's source, taught by all fine-tuned sources."""
    return _taught(job, of_sources(job), job.earlier[FINE_TUNED])


@method(
    SELF_TAUGHT,
    needs=(SEEDS, PROBE),
    control="what the other sources' knowledge does",
    of=TAUGHT,
)
def self_trained(job: Job) -> Outcome:
    """The probe's source, taught by as many networks of its own: what the images without labels do by themselves."""
    (seeds,) = job.earlier[SEEDS]
    best = probed(job)
    return _taught(job, Teachers([job.trained(state, best) for state in seeds.states.values()]), [seeds])


@method(TAUGHT_MERGE, needs=(FINE_TUNED, PROBE), options=BEST)
def merge_distilled(job: Job, scrambled: bool = False) -> Outcome:
    """The best form of the merge, taught by all fine-tuned sources in both stages."""
    return medmerge(job, scrambled=scrambled, teachers=of_sources(job), steps=steps_of(job.earlier[FINE_TUNED]))


@method(
    "distilled with noise for sources",
    needs=(FINE_TUNED, PROBE),
    options=BEST,
    control="what the other source's kernels do beside its teaching",
    of=TAUGHT_MERGE,
)
def noise_distilled(job: Job) -> Outcome:
    """The taught merge with noise in the place of the other sources' kernels; the teachers are the same."""
    return merge_distilled(job, scrambled=True)


def tuned_sources(job: Job) -> list[MedMergeModel]:
    """Every source, fine-tuned."""
    tuned: Sequence[Outcome] = job.earlier[FINE_TUNED]
    return [job.trained(outcome.states["end"], place) for place, outcome in enumerate(tuned)]


def of_sources(job: Job) -> Teachers:
    """All fine-tuned sources."""
    return Teachers(tuned_sources(job))


def _taught(job: Job, teachers: Teachers, before: Sequence[Outcome]) -> Outcome:
    trainer = job.trainer(job.single(probed(job)), "both", teachers)
    trainer.train()
    return job.outcome(trainer, {"end": weights_of(trainer.model)}, steps=steps_of(before))
