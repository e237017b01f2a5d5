"""How much each of several networks counts in their mean, from what they say of images that none has seen."""

from collections.abc import Sequence

import numpy as np

from ..errors import SettingsError


# Images that speak for each network before any is looked at: few held-out images cannot tell equal networks apart.
PRIOR = 10.0
ROUNDS = 500


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


def useful_weights(truths: np.ndarray, prior: float = PRIOR) -> np.ndarray:
    """[`mixture_weights`] of the networks that lower the log-loss of the mean; 0 of those that do not.

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
        losses = [_loss(truths, [one for one in kept if one != out], prior) for out in kept]
        if min(losses) > _loss(truths, kept, prior):
            break
        kept.pop(int(np.argmin(losses)))
    weights = np.zeros(len(truths))
    weights[kept] = mixture_weights(truths[kept], prior)
    return weights


def _loss(truths: np.ndarray, kept: Sequence[int], prior: float) -> float:
    own = truths[list(kept)]
    return float(-np.log(mixture_weights(own, prior) @ own).mean())
