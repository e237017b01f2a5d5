"""Metrics of image classification as `evaluate.Metric`s over scikit-learn.

`evaluate.load` fetches a script from the Hub; these need no network.
"""

import logging
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
        scores, references = np.asarray(prediction_scores), np.asarray(references)
        areas = []
        for label in range(scores.shape[1]):
            positive = references == label
            if positive.any() and not positive.all():
                areas.append(sk.roc_auc_score(positive, scores[:, label]))
        if len(areas) < scores.shape[1]:
            logger.warning(
                "AUROC: %d of %d classes do not occur; it is NaN.", scores.shape[1] - len(areas), scores.shape[1]
            )
            return {"auroc": float("nan")}
        return {"auroc": float(np.mean(areas))}


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities `[N, K]` from logits `[N, K]`."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def make_compute_metrics(num_labels: int) -> Callable[[Any], dict[str, float]]:
    """The `compute_metrics` of a `Trainer`: macro F1, balanced accuracy, accuracy, AUROC.

    Args:
        num_labels: K; a class that does not occur counts with F1 = 0.

    Returns:
        A function of `(logits [N, K], labels [N])`.

    Example:
        >>> compute = make_compute_metrics(2)
        >>> compute((np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([0, 1])))
        {'macro_f1': 1.0, 'balanced_accuracy': 1.0, 'accuracy': 1.0, 'auroc': 1.0}
    """
    f1, balanced, accuracy, auroc = MacroF1(), BalancedAccuracy(), Accuracy(), AUROC()

    def compute(prediction: Any) -> dict[str, float]:
        logits, references = prediction
        classes = logits.argmax(axis=1)
        figures: dict[str, float] = {}
        figures |= f1.compute(predictions=classes, references=references, labels=list(range(num_labels)))
        for metric in (balanced, accuracy):
            figures |= metric.compute(predictions=classes, references=references)
        return figures | auroc.compute(prediction_scores=softmax(logits), references=references)

    return compute
