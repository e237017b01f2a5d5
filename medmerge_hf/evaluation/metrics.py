"""Metrics of image classification as `evaluate.Metric`s over scikit-learn.

`evaluate.load` fetches a script from the Hub; these need no network.
"""

import functools
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


def make_compute_metrics(num_labels: int, multi_label: bool = False) -> Callable[[Any], dict[str, float]]:
    """The `compute_metrics` of a `Trainer`: macro F1, balanced accuracy, accuracy, AUROC.

    Args:
        num_labels: K; a class that does not occur counts with F1 = 0.
        multi_label: an image may have several labels: each is a task of two classes (a probability from 0.5 on is
            yes), and figures are averaged over the labels.

    Returns:
        A function of `(logits [N, K], labels [N])`.

    Example:
        >>> compute = make_compute_metrics(2)
        >>> compute((np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([0, 1])))
        {'macro_f1': 1.0, 'balanced_accuracy': 1.0, 'accuracy': 1.0, 'auroc': 1.0}
    """
    if multi_label:
        return _metrics_of_multi_label
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


def _metrics_of_multi_label(prediction: Any) -> dict[str, float]:
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


SPECIFICITY = 0.9

BINS = 15


def all_scores(probabilities: Any, labels: Any, ordered: bool = False) -> dict[str, float]:
    """Every figure of a comparison.

    Args:
        probabilities: `[N, K]`.
        labels: `[N]` classes, or `[N, K]` of several labels, whose figures are averaged (no `ece`).
        ordered: whether the classes are grades, for the quadratic weighted kappa.

    Returns:
        `macro_f1`, `balanced_accuracy`, `accuracy`, `auroc`, `sensitivity` (at a specificity of 0.9, one class against
        the rest, averaged), `ece`, `brier`, and `qwk` where the classes are ordered.

    Example:
        >>> found = all_scores(np.eye(2)[[0, 1, 1]], np.array([0, 1, 1]), ordered=True)
        >>> found["macro_f1"], found["qwk"], found["ece"], found["brier"]
        (1.0, 1.0, 0.0, 0.0)
    """
    probabilities, labels = np.asarray(probabilities, dtype=float), np.asarray(labels)
    if labels.ndim == 2:
        return _scores_of_multi_label(probabilities, labels)
    predicted, classes = probabilities.argmax(1), np.arange(probabilities.shape[1])
    found = {
        "macro_f1": sk.f1_score(labels, predicted, labels=classes, average="macro", zero_division=0),
        "balanced_accuracy": sk.recall_score(labels, predicted, labels=np.unique(labels), average="macro"),
        "accuracy": sk.accuracy_score(labels, predicted),
        "auroc": macro_auroc(probabilities, labels),
        "sensitivity": sensitivity_at(probabilities, labels),
        "ece": calibration_error(probabilities, labels),
        "brier": np.square(probabilities - np.eye(len(classes))[labels]).sum(1).mean(),
    }
    if ordered:
        found["qwk"] = sk.cohen_kappa_score(labels, predicted, labels=classes, weights="quadratic")
    return {name: float(value) for name, value in found.items()}


def _scores_of_multi_label(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    compute = make_compute_metrics(labels.shape[1], multi_label=True)
    odds = np.log(np.clip(probabilities, 1e-12, 1 - 1e-12) / np.clip(1 - probabilities, 1e-12, 1))
    pairs = [np.stack([1 - column, column], 1) for column in probabilities.T]
    sensitivities = [sensitivity_at(pair, truth.astype(int)) for pair, truth in zip(pairs, labels.T, strict=True)]
    figures = {"sensitivity": float(np.mean(sensitivities)), "brier": float(np.square(probabilities - labels).mean())}
    return {**compute((odds, labels)), **figures}


def sensitivity_at(probabilities: np.ndarray, labels: np.ndarray, specificity: float = SPECIFICITY) -> float:
    """Largest sensitivity at a specificity of at least so much, each class against the rest, averaged.

    Args:
        probabilities: `[N, K]`.
        labels: `[N]` classes.
        specificity: from 0 to 1.

    Returns:
        NaN where a class does not occur, or nothing else does.
    """
    found = []
    for column in range(probabilities.shape[1]):
        positive = labels == column
        if positive.all() or not positive.any():
            return float("nan")
        false_positive, true_positive, _ = sk.roc_curve(positive, probabilities[:, column])
        found.append(true_positive[false_positive <= 1 - specificity + 1e-12].max())
    return float(np.mean(found))


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error over 15 bins of the predicted class's probability (Guo et al., arXiv 1706.04599).

    Args:
        probabilities: `[N, K]`.
        labels: `[N]` classes.
    """
    import torch
    from torchmetrics.functional.classification import multiclass_calibration_error

    scores = torch.from_numpy(probabilities).float()
    classes = torch.from_numpy(labels).long()
    return float(multiclass_calibration_error(scores, classes, num_classes=scores.shape[1], n_bins=BINS))
