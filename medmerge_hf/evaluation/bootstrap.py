"""Bootstrap intervals over images, and of paired differences between methods over seeds and settings."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import SettingsError
from .compute_metrics import ComputeMetrics
from .predictions import resample_draws


RESAMPLES = 10_000

TIE = 0.005


@dataclasses.dataclass(frozen=True)
class Interval:
    """A paired difference.

    Attributes:
        mean: of the differences.
        low: lower end of the 95 % interval.
        high: upper end.
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


@dataclasses.dataclass(frozen=True)
class Gain(Interval):
    """How much better one method is than another, over paired runs.

    Attributes:
        wins: pairs in which it is better by more than 0.005.
        ties: pairs that differ by less.
        losses: pairs in which it is worse.
    """

    wins: int
    ties: int
    losses: int

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


def bootstrap_intervals(
    compute: Callable[[Any], dict[str, float]],
    logits: np.ndarray,
    labels: np.ndarray,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Percentile bootstrap over images (Efron & Tibshirani 1993, chapter 13).

    It tells how far a figure would move with other test images, not with other seeds of the training.

    Args:
        compute: figures from `(logits, labels)`. Those of [`make_compute_metrics`] are computed of all resamples at
            once, any others of one after the other.
        logits: `[N, K]`.
        labels: `[N]`, or `[N, K]` of several labels.
        resamples: how often N images are drawn with replacement.
        level: of the interval.
        seed: of the draws.

    Returns:
        Figure -> `value`, `low`, `high`. Resamples in which a figure is not defined are left out.

    Raises:
        SettingsError: there is no image, or no resample.

    Example:
        >>> from medmerge_hf import make_compute_metrics
        >>> compute = make_compute_metrics(2)
        >>> logits, labels = np.eye(2)[[0, 1, 1, 0] * 5], np.array([0, 1, 0, 0] * 5)
        >>> bootstrap_intervals(compute, logits, labels)["accuracy"]
        {'value': 0.75, 'low': 0.55, 'high': 0.95}
    """
    if not len(labels) or resamples < 1:
        raise SettingsError(
            f"Bootstrap intervals need an image and a resample at least, not {len(labels)}, {resamples}."
        )
    draws = resample_draws(len(labels), resamples, seed)
    if isinstance(compute, ComputeMetrics):
        found = compute.resampled(logits, labels, draws)
    else:
        figures = [compute((logits[draw], labels[draw])) for block in draws for draw in block]
        found = {name: np.array([one[name] for one in figures], dtype=float) for name in figures[0]}
    intervals = {}
    for name, value in compute((logits, labels)).items():
        values = found[name][np.isfinite(found[name])]
        ends = np.quantile(values, [(1 - level) / 2, (1 + level) / 2]) if len(values) else [math.nan, math.nan]
        intervals[name] = {"value": float(value), "low": float(ends[0]), "high": float(ends[1])}
    return intervals
