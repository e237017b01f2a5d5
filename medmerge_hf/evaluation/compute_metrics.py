"""The registered figures of training as a `Trainer` takes them and as `evaluate.Metric`s.

`evaluate.load` fetches a script from the Hub; these need no network.
"""

import functools
import logging
import math
from collections.abc import Iterable
from typing import Any

import datasets
import evaluate
import numpy as np

from ..errors import SettingsError
from .metrics import METRICS, training_metrics
from .predictions import Predictions, Resamples, counts_of


logger = logging.getLogger(__name__)


class RegisteredMetric(evaluate.Metric):
    """A figure of [`METRICS`] as an `evaluate.Metric`.

    Args:
        name: of the figure.
        options: of `evaluate.Metric`.

    Example:
        >>> metric = RegisteredMetric("accuracy", keep_in_memory=True)
        >>> metric.compute(prediction_scores=[[0.9, 0.1], [0.4, 0.6]], references=[0, 0])
        {'accuracy': 0.5}
    """

    def __init__(self, name: str, **options: Any) -> None:
        self.registered = METRICS[name]
        super().__init__(**options)

    def _info(self) -> evaluate.MetricInfo:
        scores, one = datasets.Sequence(datasets.Value("float64")), datasets.Value("int64")
        kinds = (one, datasets.Sequence(one))
        return evaluate.MetricInfo(
            description=self.registered.compute.__doc__ or "",
            citation="",
            inputs_description="prediction_scores: [N, K] probabilities; references: [N] classes, or [N, K] labels",
            features=[datasets.Features({"prediction_scores": scores, "references": kind}) for kind in kinds],
        )

    def _compute(self, prediction_scores: Any, references: Any) -> dict[str, float]:
        return self.of(Predictions.of_probabilities(np.asarray(prediction_scores), np.asarray(references)))

    def of(self, seen: Predictions) -> dict[str, float]:
        """The figure of predictions that are in memory; `compute` takes its arguments through Arrow."""
        value = self.registered.value(seen)
        if math.isnan(value):
            _warn_undefined(self.registered.title)
        return {self.registered.name: value}


@functools.cache
def _warn_undefined(title: str) -> None:
    logger.warning("%s is NaN where some classes do not occur among the images.", title)


class ComputeMetrics:
    """The `compute_metrics` of a `Trainer`: every figure that [`METRICS`] has for training.

    Args:
        num_labels: K.
        multi_label: an image may have several labels.
    """

    def __init__(self, num_labels: int, multi_label: bool = False) -> None:
        self.num_labels, self.multi_label = num_labels, multi_label
        self.metrics = [RegisteredMetric(metric.name) for metric in training_metrics(multi_label)]

    def __call__(self, prediction: Any) -> dict[str, float]:
        """Figures of `(logits [N, K], labels)`."""
        seen = self._seen(*prediction)
        return {name: value for metric in self.metrics for name, value in metric.of(seen).items()}

    def resampled(self, logits: Any, labels: Any, draws: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
        """Figures of many resamples at once.

        Args:
            logits: `[N, K]`.
            labels: `[N]`, or `[N, K]` of several labels.
            draws: blocks `[B, N]` of indices of images, a resample a row.

        Returns:
            Figure -> its values `[R]`, NaN where it is not defined.
        """
        seen, blocks = self._seen(logits, labels), []
        for draw in draws:
            drawn = Resamples(seen, counts_of(draw))
            blocks.append([metric.registered.values(drawn) for metric in self.metrics])
        names = [metric.registered.name for metric in self.metrics]
        return dict(zip(names, np.concatenate(blocks, axis=1), strict=True))

    def _seen(self, logits: Any, labels: Any) -> Predictions:
        logits = np.asarray(logits)
        if logits.shape[1] != self.num_labels:
            raise SettingsError(
                f"make_compute_metrics({self.num_labels}) is given outputs of {logits.shape[1]} classes: "
                "make it with num_labels=model.config.num_labels."
            )
        return Predictions.of_logits(logits, labels, self.multi_label)


def make_compute_metrics(num_labels: int, multi_label: bool = False) -> ComputeMetrics:
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
    return ComputeMetrics(num_labels, multi_label)
