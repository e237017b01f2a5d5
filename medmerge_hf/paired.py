"""Paired differences between two methods over seeds and settings, with bootstrap intervals."""

import dataclasses
from collections.abc import Sequence

import numpy as np


RESAMPLES = 10_000
TIE = 0.005


@dataclasses.dataclass(frozen=True)
class Gain:
    """How much better one method is than another.

    Attributes:
        mean: of the paired differences.
        low: lower end of the 95 % interval.
        high: upper end.
        wins: pairs in which it is better by more than 0.005.
        ties: pairs that differ by less.
        losses: pairs in which it is worse.
    """

    mean: float
    low: float
    high: float
    wins: int
    ties: int
    losses: int

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ({self.low:+.3f} to {self.high:+.3f})"

    @property
    def record(self) -> str:
        """`wins/ties/losses`."""
        return f"{self.wins}/{self.ties}/{self.losses}"


def paired_gain(ours: Sequence[float], theirs: Sequence[float], settings: Sequence[str] | None = None) -> Gain:
    """Mean paired difference with a percentile bootstrap (Efron & Tibshirani 1993).

    Args:
        ours: a figure a run.
        theirs: of the other method, in the same order of runs.
        settings: which setting each run belongs to. Where there are several, settings are drawn first and runs within
            them second, since runs of one setting share their data and sources.

    Returns:
        The gain.

    Example:
        >>> print(paired_gain([0.5, 0.6], [0.4, 0.5]))
        +0.100 (+0.100 to +0.100)
    """
    differences = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    names = np.asarray(settings if settings is not None else ["" for _ in differences])
    groups = [differences[names == name] for name in dict.fromkeys(names.tolist())]
    random = np.random.default_rng(0)
    # A mean over runs within each setting, then over the settings that were drawn.
    means = np.stack([random.choice(group, (RESAMPLES, len(group))).mean(1) for group in groups], axis=1)
    drawn = np.take_along_axis(means, random.integers(len(groups), size=means.shape), axis=1).mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    mean = float(np.mean([group.mean() for group in groups]))
    wins, losses = int((differences > TIE).sum()), int((differences < -TIE).sum())
    return Gain(mean, float(low), float(high), wins, len(differences) - wins - losses, losses)
