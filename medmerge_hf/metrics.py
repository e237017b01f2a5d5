"""Metrics of image classification as `evaluate.Metric`s over scikit-learn.

`evaluate.load` fetches a script from the Hub; these need no network.
"""

import functools
import logging
import math
from collections.abc import Callable
from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn import metrics as sk


logger = logging.getLogger(__name__)


class _ClassMetric(evaluate.Metric):
    """A figure from predicted and true classes."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "",
            citation="",
            inputs_description="predictions and references: class indices",
            features=features,
        )


class MacroF1(_ClassMetric):
    """F1 averaged over all classes, each counting the same."""

    def _compute(self, predictions: Any, references: Any, labels: Any = None) -> dict[str, float]:
        score = sk.f1_score(references, predictions, labels=labels, average="macro", zero_division=0)
        return {"macro_f1": float(score)}


class BalancedAccuracy(_ClassMetric):
    """Recall averaged over the classes that occur."""

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {
            "balanced_accuracy": float(
                sk.recall_score(references, predictions, labels=np.unique(references), average="macro")
            )
        }


class Accuracy(_ClassMetric):
    """Share of images that are classified correctly."""

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"accuracy": float(sk.accuracy_score(references, predictions))}


class AUROC(evaluate.Metric):
    """Area under the ROC curve; with more than two classes one against the rest, averaged over the classes."""

    def _info(self) -> evaluate.MetricInfo:
        scores = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "",
            citation="",
            inputs_description="prediction_scores: class probabilities; references: class indices",
            features=datasets.Features({"prediction_scores": scores, "references": datasets.Value("int64")}),
        )

    def _compute(self, prediction_scores: Any, references: Any) -> dict[str, float]:
        area = macro_auroc(np.asarray(prediction_scores), np.asarray(references))
        if np.isnan(area):
            _warn_missing_class()
        return {"auroc": area}


@functools.cache
def _warn_missing_class() -> None:
    logger.warning("AUROC is NaN where some classes do not occur among the images.")


def macro_auroc(scores: np.ndarray, references: np.ndarray) -> float:
    """Area under the ROC curve of each class against the rest, averaged; NaN where a class does not occur.

    Args:
        scores: `[N, K]` probabilities.
        references: `[N]` classes.
    """
    positive = references[:, None] == np.arange(scores.shape[1])
    if (positive.all(axis=0) | ~positive.any(axis=0)).any():
        return float("nan")
    return float(sk.roc_auc_score(positive, scores, average="macro"))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities `[N, K]` from logits `[N, K]`."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probability of each of several labels."""
    return 1 / (1 + np.exp(-np.clip(logits, -60, 60)))


def make_compute_metrics(num_labels: int, several: bool = False) -> Callable[[Any], dict[str, float]]:
    """The `compute_metrics` of a `Trainer`: macro F1, balanced accuracy, accuracy, AUROC.

    Args:
        num_labels: K; a class that does not occur counts with F1 = 0.
        several: an image may have several labels: each is a task of two classes (a probability from 0.5 on is yes),
            and figures are averaged over the labels.

    Returns:
        A function of `(logits [N, K], labels [N])`.

    Example:
        >>> compute = make_compute_metrics(2)
        >>> compute((np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([0, 1])))
        {'macro_f1': 1.0, 'balanced_accuracy': 1.0, 'accuracy': 1.0, 'auroc': 1.0}
    """
    if several:
        return _metrics_of_several
    f1, balanced, accuracy, auroc = MacroF1(), BalancedAccuracy(), Accuracy(), AUROC()

    def compute(prediction: Any) -> dict[str, float]:
        logits, references = prediction
        classes = logits.argmax(axis=1)
        # _compute, since compute() takes its arguments through Arrow files: too slow for a bootstrap.
        return {
            **f1._compute(classes, references, labels=list(range(num_labels))),
            **balanced._compute(classes, references),
            **accuracy._compute(classes, references),
            **auroc._compute(softmax(logits), references),
        }

    return compute


def _metrics_of_several(prediction: Any) -> dict[str, float]:
    logits, references = np.asarray(prediction[0]), np.asarray(prediction[1]) >= 0.5
    chosen = logits >= 0
    recalls = [sk.recall_score(references == side, chosen == side, average=None, zero_division=0) for side in (1, 0)]
    both = references.any(0) & ~references.all(0)
    area = sk.roc_auc_score(references, sigmoid(logits), average="macro") if both.all() else float("nan")
    return {
        "macro_f1": float(sk.f1_score(references, chosen, average="macro", zero_division=0)),
        "balanced_accuracy": float(np.mean(recalls)),
        "accuracy": float((references == chosen).mean()),
        "auroc": float(area),
    }


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
        compute: figures from `(logits, labels)`, see [`make_compute_metrics`].
        logits: `[N, K]`.
        labels: `[N]`.
        resamples: how often N images are drawn with replacement.
        level: of the interval.
        seed: of the draws.

    Returns:
        Figure -> `value`, `low`, `high`. Resamples in which a figure is not defined are left out.

    Example:
        >>> compute = make_compute_metrics(2)
        >>> logits, labels = np.eye(2)[[0, 1, 1, 0] * 5], np.array([0, 1, 0, 0] * 5)
        >>> bootstrap_intervals(compute, logits, labels)["accuracy"]
        {'value': 0.75, 'low': 0.55, 'high': 0.95}
    """
    draws = np.random.default_rng(seed).integers(len(labels), size=(resamples, len(labels)))
    found = [compute((logits[draw], labels[draw])) for draw in draws]
    intervals = {}
    for name, value in compute((logits, labels)).items():
        values = np.array([figures[name] for figures in found], dtype=float)
        values = values[np.isfinite(values)]
        ends = np.quantile(values, [(1 - level) / 2, (1 + level) / 2]) if len(values) else [math.nan, math.nan]
        intervals[name] = {"value": float(value), "low": float(ends[0]), "high": float(ends[1])}
    return intervals
