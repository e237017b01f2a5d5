"""All figures of one run from its predictions, as a comparison reports them (scikit-learn, torchmetrics, numpy)."""

from typing import Any

import numpy as np
from sklearn import metrics as sk

from .metrics import macro_auroc, make_compute_metrics


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
        return _scores_of_several(probabilities, labels)
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


def _scores_of_several(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    compute = make_compute_metrics(labels.shape[1], several=True)
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
