"""The loss of the target task, which adds up over the parts of a batch, and weights for classes of unequal size."""

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..errors import DataError, SettingsError
from ..networks.build import MULTI_LABEL


IGNORED = -100  # a label that does not count, as in transformers and torch


def balanced_weights(labels: Any, num_labels: int) -> Tensor:
    """Weights inversely proportional to how often a class occurs (King & Zeng 2001), of mean 1 over the images.

    Args:
        labels: `[N]` classes, or `[N, K]` of several labels.
        num_labels: K.

    Returns:
        `[K]`: of each class; of several labels the weight of a positive against a negative, `negatives / positives`
        (1 where there are none of either).

    Raises:
        DataError: a class without an image.

    Example:
        >>> balanced_weights([0, 0, 0, 1], 2)
        tensor([0.6667, 2.0000])
    """
    from sklearn.utils.class_weight import compute_class_weight

    values = np.asarray(labels)
    if values.ndim == 2:
        positives = values.sum(0)
        negatives = len(values) - positives
        both = (positives > 0) & (negatives > 0)
        return torch.as_tensor(np.where(both, negatives / np.maximum(positives, 1), 1), dtype=torch.float32)
    if missing := sorted(set(range(num_labels)) - set(values.tolist())):
        raise DataError(
            f"Class weights: class {missing[0]} of {num_labels} has no training image, so that no weight makes it "
            "count the same. Add one, or leave class_weights out."
        )
    weights = compute_class_weight("balanced", classes=np.arange(num_labels), y=values)
    return torch.as_tensor(weights, dtype=torch.float32)


def log_priors(labels: Any, num_labels: int) -> Tensor:
    """Logarithm of how often each class occurs, for [`TaskLoss`].

    Args:
        labels: `[N]` classes.
        num_labels: K.

    Returns:
        `[K]`.

    Raises:
        DataError: a class without an image.
        SettingsError: images may have several labels.

    Example:
        >>> log_priors([0, 0, 0, 1], 2).exp()
        tensor([0.7500, 0.2500])
    """
    values = np.asarray(labels)
    if values.ndim == 2:
        raise SettingsError(
            "class_priors has no effect where an image may have several labels: leave it out, or take class_weights."
        )
    counts = np.bincount(values, minlength=num_labels)
    if not counts.min():
        raise DataError(
            f"Class priors: class {int(counts.argmin())} of {num_labels} has no training image. Add one, or leave "
            "class_priors out."
        )
    return torch.as_tensor(np.log(counts / counts.sum()), dtype=torch.float32)


def counted(labels: Tensor, num_items_in_batch: "Tensor | int | None") -> tuple[Tensor, Any]:
    """Which labels of a batch count, and how many do in the whole step, on the device of the labels.

    Args:
        labels: -100 does not count.
        num_items_in_batch: of the step; by default those of this batch.
    """
    counts = labels != IGNORED
    items = counts.sum() if num_items_in_batch is None else num_items_in_batch
    return counts, items.to(labels.device) if isinstance(items, Tensor) else items


@dataclasses.dataclass(frozen=True)
class TaskLoss:
    """The loss of an image classifier, as a `Trainer` takes it (`compute_loss_func`).

    It is a sum over images (and labels), divided by the number of those that one optimizer step takes: in whatever
    micro-batches and processes a step is computed, it has the loss and the gradient of one big batch.

    Args:
        weights: of [`balanced_weights`]; every class counts as often as it occurs by default.
        config: of the network, whose `problem_type` is followed; where it is not set, it follows from the labels and
            is noted there, as transformers does. [`MedMergeTrainer`] fills it in.
        label_smoothing: share of a label that is spread over all classes. [`MedMergeTrainer`] takes it from
            `label_smoothing_factor`.
        priors: of [`log_priors`], added to the logits before the softmax (balanced softmax, Ren et al., arXiv
            2007.10740): the network need not learn that a class is rare, and does not bet on it.

    Raises:
        SettingsError: label smoothing, weights or priors where they have no effect.

    Example:
        >>> logits, labels = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 2.0]]), torch.tensor([0, 1, 0])
        >>> whole, loss = TaskLoss()({"logits": logits}, labels), TaskLoss()
        >>> parts = [loss({"logits": logits[part]}, labels[part], 3) for part in (slice(2), slice(2, 3))]
        >>> bool(torch.isclose(sum(parts), whole))
        True
    """

    weights: Tensor | None = None
    config: Any = None
    label_smoothing: float = 0.0
    priors: Tensor | None = None

    def __post_init__(self) -> None:
        self._check(getattr(self.config, "problem_type", None))

    def _check(self, problem: str | None) -> None:
        if self.label_smoothing and problem in (MULTI_LABEL, "regression"):
            raise SettingsError(
                f"label_smoothing_factor={self.label_smoothing} has no effect on {problem}: it spreads the one label "
                "of an image over the others. Set it to 0."
            )
        if self.weights is not None and problem == "regression":
            raise SettingsError("Class weights have no effect on regression, which knows no classes: leave them out.")
        if self.priors is not None and problem in (MULTI_LABEL, "regression"):
            raise SettingsError(f"Class priors have no effect on {problem}: leave class_priors out.")

    def _problem(self, logits: Tensor, labels: Tensor) -> str:
        problem = getattr(self.config, "problem_type", None)
        if problem is None:
            whole = not labels.is_floating_point()
            problem = (
                "regression" if logits.shape[-1] == 1 else "single_label_classification" if whole else MULTI_LABEL
            )
            self._check(problem)
            if self.config is not None:
                self.config.problem_type = problem
        return problem

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: "Tensor | int | None" = None) -> Tensor:
        """The loss of a batch, or its part of that of a whole step.

        Args:
            outputs: of the network, with `logits` `[N, K]`.
            labels: `[N]` classes, `[N, K]` floats of several labels, or numbers; -100 does not count.
            num_items_in_batch: how many labels the step has in all; by default those of this batch.

        Raises:
            DataError: there are no labels.
        """
        if labels is None:
            raise DataError("The training images come without 'labels': a batch needs them beside pixel_values.")
        logits = (outputs["logits"] if isinstance(outputs, dict) else outputs[0]).float()
        labels = labels.to(logits.device)
        counts, items = counted(labels, num_items_in_batch)
        return self._sum(self._problem(logits, labels), logits, labels, counts) / items

    def _sum(self, problem: str, logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
        weights = None if self.weights is None else self.weights.to(logits.device)
        if problem == MULTI_LABEL:
            return functional.binary_cross_entropy_with_logits(
                logits, labels.float(), weight=counts.to(logits), pos_weight=weights, reduction="sum"
            )
        if problem == "regression":
            return (counts * (logits.view_as(labels) - labels)).square().sum()
        logits = logits if self.priors is None else logits + self.priors.to(logits.device)
        return functional.cross_entropy(
            logits, labels.view(-1), weights, reduction="sum", label_smoothing=self.label_smoothing
        )
