"""Every figure by which predictions are judged, one registered function each.

Trainers, bootstrap, comparison, tables and model cards take their figures, names and titles from [`METRICS`].
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from .predictions import Predictions, Resamples, ratio


SPECIFICITY = 0.9

BINS = 15

Task = Literal["any", "classes", "grades"]


@dataclasses.dataclass(frozen=True)
class Metric:
    """A figure of predictions.

    Attributes:
        name: in results and logs.
        title: for people.
        compute: the figure of some `Predictions`; of all `Resamples` at once, `[R]`, where it is `counted`.
        hub_name: of the metric on the Hub.
        training: it stands beside every evaluation of a trainer and, with its interval, on the model card.
        counted: it is made of counts alone.
        task: where it is defined: everywhere, where an image has one class, or where the classes are grades.
    """

    name: str
    title: str
    compute: Callable[[Any], Any]
    hub_name: str
    training: bool = False
    counted: bool = False
    task: Task = "any"

    def value(self, seen: Predictions) -> float:
        """The figure; NaN where it is not defined."""
        if not self.counted:
            return float(self.compute(seen))
        return float(self.compute(Resamples(seen, np.ones((1, len(seen)))))[0])

    def values(self, drawn: Resamples) -> np.ndarray:
        """The figure of each resample, `[R]`."""
        if self.counted:
            return self.compute(drawn)
        return np.array([self.value(drawn.seen.repeated(counts.astype(int))) for counts in drawn.counts])


METRICS: dict[str, Metric] = {}


def metric(name: str, title: str, hub_name: str = "", **about: Any) -> Callable[[Callable[[Any], Any]], Any]:
    """Register a function as a figure.

    Args:
        name: in results and logs.
        title: for people.
        hub_name: of the metric on the Hub; the same by default.
        about: what else a [`Metric`] says of itself.
    """

    def register(compute: Callable[[Any], Any]) -> Callable[[Any], Any]:
        METRICS[name] = Metric(name, title, compute, hub_name or name, **about)
        return compute

    return register


def training_metrics(multi_label: bool = False) -> list[Metric]:
    """The figures that stand beside every evaluation of a trainer.

    Args:
        multi_label: whether an image may have several labels, or none.
    """
    defined = {"any"} if multi_label else {"any", "classes"}
    return [found for found in METRICS.values() if found.training and found.task in defined]


def all_scores(probabilities: Any, labels: Any, ordered: bool = False) -> dict[str, float]:
    """Every figure of a comparison.

    Args:
        probabilities: `[N, K]`.
        labels: `[N]` classes, or `[N, K]` of several labels, whose figures are averaged.
        ordered: whether the classes are grades.

    Returns:
        Name -> figure, of all [`METRICS`] that are defined for this task.

    Example:
        >>> found = all_scores(np.eye(2)[[0, 1, 1]], np.array([0, 1, 1]), ordered=True)
        >>> found["macro_f1"], found["qwk"], found["ece"], found["brier"]
        (1.0, 1.0, 0.0, 0.0)
    """
    seen = Predictions.of_probabilities(probabilities, labels)
    kinds = {"any"} if seen.multi_label else {"any", "classes", *(["grades"] if ordered else [])}
    return {name: found.value(seen) for name, found in METRICS.items() if found.task in kinds}


@metric("macro_f1", "macro F1", "f1", training=True, counted=True)
def macro_f1(drawn: Resamples) -> np.ndarray:
    """F1 averaged over all classes, each counting the same; 0 of one that neither occurs nor is predicted."""
    return ratio(2 * drawn.hits, drawn.positives + drawn.named).mean(axis=1)


@metric("balanced_accuracy", "balanced accuracy", training=True, counted=True)
def balanced_accuracy(drawn: Resamples) -> np.ndarray:
    """Recall averaged over the classes that occur; of several labels over the two sides of each."""
    recall = ratio(drawn.hits, drawn.positives)
    if drawn.seen.multi_label:
        return (recall + ratio(_rejected(drawn), drawn.images - drawn.positives)).mean(axis=1) / 2
    return recall.sum(axis=1) / (drawn.positives > 0).sum(axis=1)


@metric("accuracy", "accuracy", training=True, counted=True)
def accuracy(drawn: Resamples) -> np.ndarray:
    """Share of images, or of their labels, that are classified correctly."""
    if drawn.seen.multi_label:
        return ((drawn.hits + _rejected(drawn)) / drawn.images).mean(axis=1)
    return drawn.hits.sum(axis=1) / drawn.images[:, 0]


@metric("auroc", "AUROC", "roc_auc", training=True, counted=True)
def auroc(drawn: Resamples) -> np.ndarray:
    """Area under the ROC curve, one class against the rest, averaged; NaN where a class does not occur."""
    return drawn.areas().mean(axis=1)


@metric("sensitivity", f"sensitivity at specificity {SPECIFICITY}")
def sensitivity(seen: Predictions) -> float:
    """Largest sensitivity at a specificity of at least 0.9, one class against the rest, averaged.

    Of several labels both sides of each count. NaN where a class does not occur, or nothing else does.
    """
    import torch
    from torchmetrics.functional.classification import multilabel_sensitivity_at_specificity

    scores, truth = seen.scores, seen.truth
    if seen.multi_label:
        scores, truth = np.hstack([scores, 1 - scores]), np.hstack([truth, ~truth])
    if (truth.all(axis=0) | ~truth.any(axis=0)).any():
        return float("nan")
    found, _ = multilabel_sensitivity_at_specificity(
        torch.from_numpy(scores), torch.from_numpy(truth.astype(int)), truth.shape[1], SPECIFICITY
    )
    return float(found.mean())


@metric("qwk", "QWK", task="grades")
def quadratic_weighted_kappa(seen: Predictions) -> float:
    """Agreement of grades beyond chance, a mistake counting by the square of its distance (Cohen 1968)."""
    from sklearn.metrics import cohen_kappa_score

    grades = range(seen.truth.shape[1])
    return cohen_kappa_score(seen.truth.argmax(1), seen.chosen.argmax(1), labels=list(grades), weights="quadratic")


@metric("ece", "ECE", task="classes")
def calibration_error(seen: Predictions) -> float:
    """Expected calibration error over 15 bins of the predicted class's probability (Guo et al., arXiv 1706.04599)."""
    import torch
    from torchmetrics.functional.classification import multiclass_calibration_error

    scores, classes = torch.from_numpy(seen.scores).float(), torch.from_numpy(seen.truth.argmax(1))
    return float(multiclass_calibration_error(scores, classes, num_classes=scores.shape[1], n_bins=BINS))


@metric("brier", "Brier")
def brier(seen: Predictions) -> float:
    """Squared distance of the probabilities to the truth; of several labels averaged over them."""
    distance = np.square(seen.scores - seen.truth)
    return distance.mean() if seen.multi_label else distance.sum(axis=1).mean()


def _rejected(drawn: Resamples) -> np.ndarray:
    """`[R, K]`: images that do not have a label and of which the model says so."""
    return drawn.images - drawn.positives - drawn.named + drawn.hits
