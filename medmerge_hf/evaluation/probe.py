"""Linear probes of frozen features, out of fold: what one source knows of a target, and what several know together."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import DataError
from .bootstrap import Interval
from .compute_metrics import make_compute_metrics
from .predictions import LEAST, counts_of, of_truth, resample_draws


FOLDS = 5
# Inverse strengths of the L2 penalty; of each set of features the best one counts.
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
RESAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class Probe:
    """Out-of-fold predictions of a logistic regression.

    Attributes:
        probabilities: `[N, K]`, of each image by a regression that has not seen it.
        labels: `[N]` classes, or `[N, K]` of several labels.
    """

    probabilities: np.ndarray
    labels: np.ndarray

    @property
    def losses(self) -> np.ndarray:
        """Cross-entropy of each image, `[N]`, in nats; the mean over labels where there are several."""
        truths = of_truth(self.probabilities, self.labels)
        return -np.log(truths).reshape(len(self.labels), -1).mean(axis=1)

    @property
    def logits(self) -> np.ndarray:
        """What a network would give, `[N, K]`."""
        sure = np.clip(self.probabilities, LEAST, 1 - LEAST)
        return np.log(sure) if self.labels.ndim == 1 else np.log(sure) - np.log(1 - sure)

    @property
    def figures(self) -> dict[str, float]:
        """Macro F1, balanced accuracy, accuracy and AUROC."""
        return self._compute((self.logits, self.labels))

    @property
    def _compute(self) -> Any:
        return make_compute_metrics(self.probabilities.shape[1], self.labels.ndim == 2)


def probe(features: np.ndarray, labels: np.ndarray, seed: int = 0) -> Probe:
    """Predict each image by a logistic regression on the features of the others, in five folds.

    Args:
        features: `[N, D]`.
        labels: `[N]` classes from 0, or `[N, K]` of several labels, each a regression of its own.
        seed: of the folds.

    Returns:
        The predictions with the penalty whose log-loss is lowest.

    Raises:
        DataError: a class has a single image.

    Example:
        >>> random, labels = np.random.default_rng(0), np.arange(60) % 2
        >>> good, bad = random.normal(labels[:, None], 0.3, (60, 5)), random.normal(0, 1, (60, 5))
        >>> bool(probe(good, labels).losses.mean() < probe(bad, labels).losses.mean())
        True
    """
    found = [Probe(_out_of_fold(features, labels, strength, seed), labels) for strength in STRENGTHS]
    return min(found, key=lambda one: float(one.losses.mean()))


def _out_of_fold(features: np.ndarray, labels: np.ndarray, strength: float, seed: int) -> np.ndarray:
    from sklearn.model_selection import cross_val_predict

    model, validation = cross_validated(labels, strength, FOLDS, seed)
    return cross_val_predict(model, features, method="predict_proba", **validation)


def cross_validated(labels: np.ndarray, strength: float, folds: int, seed: int) -> tuple[Any, dict[str, Any]]:
    """A logistic regression on standardised features, and how it is cross-validated.

    Args:
        labels: `[N]` classes from 0, or `[N, K]` of several labels, each a regression of its own.
        strength: inverse of the L2 penalty.
        folds: how many, fewer where a class has fewer images.
        seed: of the folds.

    Returns:
        The model, and `y` and `cv` of scikit-learn's functions.

    Raises:
        DataError: a class has a single image.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import KFold, StratifiedKFold
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    regression: Any = LogisticRegression(C=strength, max_iter=500)
    if labels.ndim == 2:
        regression = OneVsRestClassifier(regression)
        validation = {"y": labels.astype(int), "cv": KFold(folds, shuffle=True, random_state=seed)}
    else:
        split = StratifiedKFold(_folds_of(labels, folds), shuffle=True, random_state=seed)
        validation = {"y": labels, "cv": split}
    return make_pipeline(StandardScaler(), regression), validation


def _folds_of(labels: np.ndarray, most: int) -> int:
    """As many as are wanted, and every class is in each."""
    counts = np.bincount(labels)
    if counts.min() < 2:
        raise DataError(
            f"Class {int(counts.argmin())} has {counts.min()} training image: a probe needs two of each class. "
            "Label more, or leave the class out of every split."
        )
    return min(most, int(counts.min()))


def gain(ours: Probe, theirs: Probe, figure: Callable[[Probe, np.ndarray], np.ndarray]) -> Interval:
    """A paired difference over the same images, with a percentile bootstrap (Efron & Tibshirani 1993).

    Args:
        ours: predictions.
        theirs: other predictions of the same images.
        figure: [`log_loss`] or [`macro_f1`].

    Returns:
        `ours - theirs`.
    """
    whole = np.arange(len(ours.labels))[None]
    value = float((figure(ours, whole) - figure(theirs, whole))[0])
    draws = list(resample_draws(len(ours.labels), RESAMPLES, 0))
    found = np.concatenate([figure(ours, draw) - figure(theirs, draw) for draw in draws])
    low, high = np.nanquantile(found, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def log_loss(one: Probe, draw: np.ndarray) -> np.ndarray:
    """Mean cross-entropy of resamples `[R, N]` of images."""
    return counts_of(draw) @ one.losses / draw.shape[1]


def macro_f1(one: Probe, draw: np.ndarray) -> np.ndarray:
    """Macro F1 of resamples `[R, N]` of images."""
    return one._compute.resampled(one.logits, one.labels, [draw])["macro_f1"]
