"""How sure networks may be and how much each counts in their mean, from what they say of images that none has seen."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize_scalar

from ..errors import SettingsError
from .predictions import Predictions, of_truth


# Images that speak for each network before any is looked at: few held-out images cannot tell equal networks apart.
PRIOR = 10.0
ROUNDS = 500

# Temperatures that are looked at: few labels make networks too sure of themselves; none is made surer, since a handful
# of held-out images that are all right would have it be certain.
COOLEST, HOTTEST = 1.0, 20.0


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """What a network says of images that it has not seen.

    Attributes:
        logits: `[N, K]`.
        labels: `[N]` classes, or `[N, K]` of several labels.
        priors: `[K]`, what the network leaves to its loss ([`log_priors`]), if anything.

    Example:
        >>> logits = np.array([[8.0, 0.0], [8.0, 0.0], [0.0, 8.0], [8.0, 0.0]])
        >>> seen = HeldOut(logits, np.array([0, 0, 1, 1]))  # always sure, and right of three in four
        >>> round(seen.temperature, 1), seen.truths.round(2).tolist()
        (7.3, [0.75, 0.75, 0.75, 0.25])
    """

    logits: np.ndarray
    labels: np.ndarray
    priors: np.ndarray | None = None

    @functools.cached_property
    def temperature(self) -> float:
        """By which logits are divided so that the log-loss is lowest (Guo et al., arXiv 1706.04599), from 1 on."""
        found = minimize_scalar(
            lambda log: -np.log(self._at(np.exp(log))).mean(), bounds=np.log((COOLEST, HOTTEST)), method="bounded"
        )
        return float(np.exp(found.x))

    @functools.cached_property
    def truths(self) -> np.ndarray:
        """`[N]`, the probability that it gives at its temperature to what is true; `[N * K]` of several labels."""
        return self._at(self.temperature)

    @property
    def loss(self) -> float:
        """Log-loss at its temperature."""
        return float(-np.log(self.truths).mean())

    def _at(self, temperature: float) -> np.ndarray:
        logits = self.logits / temperature + (0.0 if self.priors is None else self.priors)
        seen = Predictions.of_logits(logits, self.labels, multi_label=self.labels.ndim == 2)
        return of_truth(seen.scores, self.labels)


def mixture_weights(truths: np.ndarray, prior: float = PRIOR) -> np.ndarray:
    """Weights of a mean of networks that make what is true most probable (expectation maximisation).

    Args:
        truths: `[S, N]`, of [`of_truth`].
        prior: images that speak for each network beforehand.

    Returns:
        `[S]`, of sum 1.

    Raises:
        SettingsError: there is no network or no image.

    Example:
        >>> mixture_weights(np.array([[0.9] * 80, [0.1] * 80])).round(2).tolist()
        [0.89, 0.11]
    """
    if truths.ndim != 2 or not truths.size:
        raise SettingsError(f"Weights of networks need their probabilities of images, [S, N], not {truths.shape}.")
    weights = np.full(len(truths), 1 / len(truths))
    for _ in range(ROUNDS):
        shares = weights[:, None] * truths
        counts = (shares / shares.sum(axis=0)).sum(axis=1) + prior
        weights = counts / counts.sum()
    return weights


def clearly_worse(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether a network tells held-out images worse than another, by more than a standard error of the difference.

    Args:
        ours: `[N]`, the probability that it gives to what is true.
        theirs: of the other one, of the same images.

    Example:
        >>> clearly_worse(np.array([0.4, 0.5, 0.6]), np.array([0.8, 0.9, 0.8]))
        True
    """
    more = np.log(theirs) - np.log(ours)
    error = more.std(ddof=1) / len(more) ** 0.5 if len(more) > 1 else 0.0
    return bool(more.mean() > error)


def useful_weights(truths: np.ndarray, prior: float = PRIOR) -> np.ndarray:
    """[`mixture_weights`] of the networks; 0 of those without which the mean tells the images clearly better.

    A mean is seldom worse than its parts, and a handful of images can make any network look useless.

    Args:
        truths: `[S, N]`, of [`of_truth`].
        prior: images that speak for each network beforehand.

    Returns:
        `[S]`, of sum 1.

    Example:
        >>> useful_weights(np.array([[0.9] * 80, [0.1] * 80])).tolist()
        [1.0, 0.0]
    """
    kept = list(range(len(truths)))
    while len(kept) > 1:
        without = [_mean(truths, [one for one in kept if one != out], prior) for out in kept]
        best = int(np.argmin([-np.log(one).mean() for one in without]))
        if not clearly_worse(_mean(truths, kept, prior), without[best]):
            break
        kept.pop(best)
    weights = np.zeros(len(truths))
    weights[kept] = mixture_weights(truths[kept], prior)
    return weights


def _mean(truths: np.ndarray, kept: Sequence[int], prior: float) -> np.ndarray:
    own = truths[list(kept)]
    return mixture_weights(own, prior) @ own
