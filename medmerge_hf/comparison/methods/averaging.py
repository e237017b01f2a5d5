"""What a user would average instead of merging: networks of the sources, or what fine-tuning made of them.

Averages of the sources are merges whose kernel weights are set and not learned: `init=1 / S` is the uniform average,
the aligned one with [`MedMergeModel.align`] before it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..job import Job, steps_of, train, validation_f1
from ..registry import method
from ..run_store import Outcome
from .single_source import FINE_TUNED, LP_FT


SHARES = (0.25, 0.5, 0.75)  # of LP-FT's end, that WiSE-FT tries


def average(states: Sequence[Mapping[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    """Weighted average of state dicts: a soup (arXiv 2203.05482), or WiSE-FT's line (arXiv 2109.01903).

    Args:
        states: of one architecture.
        shares: a number a state.

    Returns:
        Name -> tensor; integers are the first state's.

    Example:
        >>> average([{"w": torch.zeros(2)}, {"w": torch.ones(2)}], [0.75, 0.25])["w"]
        tensor([0.2500, 0.2500])
    """
    return {
        name: torch.stack([share * state[name] for share, state in zip(shares, states, strict=True)]).sum(0)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in states[0].items()
    }


def even(things: Sequence[Any]) -> list[float]:
    """The same share for each."""
    return [1 / len(things)] * len(things)


def greedy_choice(
    states: Sequence[Mapping[str, Tensor]], scores: Sequence[float], score: Callable[[dict[str, Tensor]], float]
) -> list[int]:
    """Which fine-tuned networks the greedy soup averages: each that does not lower the score (arXiv 2203.05482).

    Args:
        states: of the fine-tuned networks.
        scores: of each alone, on validation.
        score: of an average, on validation.

    Returns:
        Their places, the best alone first.

    Example:
        >>> states = [{"w": torch.tensor(value)} for value in (1.0, 3.0, 9.0)]
        >>> greedy_choice(states, [-6, -4, -2], lambda state: -abs(float(state["w"]) - 7))
        [2, 1]
    """
    order = sorted(range(len(states)), key=lambda place: -scores[place])
    chosen, best = order[:1], scores[order[0]]
    for place in order[1:]:
        taken = [states[i] for i in [*chosen, place]]
        found = score(average(taken, even(taken)))
        if found >= best:
            chosen, best = [*chosen, place], found
    return chosen


def _average(job: Job, **options: Any) -> Outcome:
    model = job.merging(**options)
    return train(job, model.collapse(job.images(model)))


@method("uniform average")
def uniform_average(job: Job) -> Outcome:
    """The mean of the sources, then fine-tuned."""
    return _average(job, init=[1 / len(job.settings.source.sources)])


@method("aligned average")
def aligned_average(job: Job) -> Outcome:
    """The mean of the aligned sources, statistics re-estimated, then fine-tuned."""
    return _average(job, init=[1 / len(job.settings.source.sources)], align="activations")


@method("WiSE-FT", each=True, needs=(LP_FT,), tries_rates=False)
def wise_ft(job: Job) -> Outcome:
    """Between the linear probe and LP-FT's end, where validation is best (Wortsman et al., arXiv 2109.01903)."""
    (tuned,) = job.earlier[LP_FT]
    start, end = tuned.states["start"], tuned.states["end"]
    states = {share: average([start, end], [1 - share, share]) for share in SHARES}
    found = {share: job.validation_of(state) for share, state in states.items()}
    best = max(found, key=lambda share: found[share])
    return (
        job.of_state(states[best], share=best, steps=tuned.notes["steps"])
        if found[best] >= validation_f1(tuned)
        else tuned
    )


@method("greedy soup", needs=(FINE_TUNED,), tries_rates=False)
def greedy_soup(job: Job) -> Outcome:
    """The greedy soup of the fine-tuned sources; the best of them as it is, where no other is taken in."""
    tuned = job.earlier[FINE_TUNED]
    states, scores = [outcome.states["end"] for outcome in tuned], [validation_f1(outcome) for outcome in tuned]
    chosen = greedy_choice(states, scores, job.validation_of)
    if len(chosen) == 1:
        return tuned[chosen[0]]
    return job.of_state(average([states[place] for place in chosen], even(chosen)), steps=steps_of(tuned))


@method("ensemble", needs=(FINE_TUNED,), tries_rates=False)
def ensemble(job: Job) -> Outcome:
    """The mean prediction of the fine-tuned sources: S networks to run, an upper reference."""
    return mean_outcome(job.earlier[FINE_TUNED])


def mean_outcome(tuned: Sequence[Outcome]) -> Outcome:
    """The mean of several networks' predictions."""
    first = tuned[0]
    probabilities = {split: np.mean([own.probabilities[split] for own in tuned], axis=0) for split in first.labels}
    return Outcome(probabilities, first.labels, notes={"classes": first.notes["classes"], "steps": steps_of(tuned)})
