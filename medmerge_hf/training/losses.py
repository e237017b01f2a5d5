"""Classes of unequal size: a loss in which each counts the same."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def balanced_weights(labels: Any, num_labels: int) -> Tensor:
    """Weights inversely proportional to how often a class occurs (King & Zeng 2001), of mean 1 over the images.

    Args:
        labels: `[N]` classes, or `[N, K]` of several labels.
        num_labels: K.

    Returns:
        `[K]`: of each class; of several labels the weight of a positive against a negative, `negatives / positives`.

    Example:
        >>> balanced_weights([0, 0, 0, 1], 2)
        tensor([0.6667, 2.0000])
    """
    values = np.asarray(labels)
    if values.ndim == 2:
        positives = values.sum(0)
        return torch.as_tensor((len(values) - positives) / np.maximum(positives, 1), dtype=torch.float32)
    counts = np.bincount(values, minlength=num_labels)
    return torch.as_tensor(len(values) / (num_labels * np.maximum(counts, 1)), dtype=torch.float32)


class BalancedLoss:
    """Cross-entropy with class weights, as a `Trainer` takes it (`compute_loss_func`).

    Args:
        weights: of [`balanced_weights`].
        multi_label: whether an image may have several labels.
    """

    def __init__(self, weights: Tensor, multi_label: bool = False) -> None:
        self.weights, self.multi_label = weights, multi_label

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        """The loss of a batch."""
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
        weights = self.weights.to(logits.device)
        if self.multi_label:
            return nn.functional.binary_cross_entropy_with_logits(logits.float(), labels.float(), pos_weight=weights)
        return nn.functional.cross_entropy(logits.float(), labels, weight=weights)
