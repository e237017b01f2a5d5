"""Predictions counted for a picture: what is taken for what, and how often a model is right when it is so sure."""

from collections import Counter
from typing import Any

import numpy as np

from .predictions import Predictions


POINTS = 10  # of a reliability curve at most

IMAGES_A_POINT = 30  # at least, as long as there are so many


def counts_for_pictures(logits: Any, labels: Any, multi_label: bool = False) -> dict[str, list[Any]]:
    """Both, as JSON takes them.

    Args:
        logits: `[N, K]`.
        labels: `[N]`, or `[N, K]` of several labels.
        multi_label: whether an image may have several.

    Returns:
        `confusion` and `reliability`.
    """
    seen = Predictions.of_logits(logits, labels, multi_label)
    return {"confusion": confusion_counts(seen), "reliability": reliability(seen)}


def confusion_counts(seen: Predictions) -> list[list[int]]:
    """What was taken for what, without the pairs that do not occur.

    Args:
        seen: predictions of N images.

    Returns:
        `[true class, predicted class, images]` each; where an image may have several labels a line a label:
        images that have it and are named, have it and are missed, are named without having it, and all others.

    Example:
        >>> confusion_counts(Predictions.of_logits(np.eye(2)[[0, 1, 1]], np.array([0, 1, 0])))
        [[0, 0, 1], [0, 1, 1], [1, 1, 1]]
    """
    if seen.multi_label:
        truth, chosen = seen.truth, seen.chosen
        kinds = (truth & chosen, truth & ~chosen, ~truth & chosen, ~truth & ~chosen)
        return np.stack([kind.sum(axis=0) for kind in kinds], axis=1).tolist()
    pairs = Counter(zip(seen.truth.argmax(1).tolist(), seen.chosen.argmax(1).tolist(), strict=True))
    return [[true, predicted, count] for (true, predicted), count in sorted(pairs.items())]


def reliability(seen: Predictions) -> list[list[float]]:
    """How often a model is right by how sure it is: points of as many images each.

    Args:
        seen: predictions of N images; the probability is that of the predicted class, of several labels that of each.

    Returns:
        `[mean probability, share that is right, images]` each, the least sure first.

    Example:
        >>> sure = Predictions.of_probabilities(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1]))
        >>> reliability(sure)
        [[0.85, 1.0, 2]]
    """
    if seen.multi_label:
        sure, right = seen.scores.ravel(), seen.truth.ravel()
    else:
        sure, right = seen.scores.max(axis=1), (seen.truth & seen.chosen).any(axis=1)
    order = np.argsort(sure, kind="stable")
    parts = np.array_split(order, max(1, min(POINTS, len(order) // IMAGES_A_POINT)))
    return [[round(float(sure[p].mean()), 4), round(float(right[p].mean()), 4), len(p)] for p in parts if len(p)]
