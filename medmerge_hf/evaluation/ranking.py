"""Which sources promise most for a target, from one forward pass each and no training."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..networks.features import observed_features
from .probe import cross_validated


FOLDS, STRENGTH = 3, 0.01


@torch.no_grad()
def source_features(model: Any, batches: Iterable[Tensor]) -> np.ndarray:
    """What a network makes of images before its head.

    Args:
        model: of one source ([`single_source_model`]).
        batches: of images `[N, C, H, W]`.

    Returns:
        `[N, D]`, float64.
    """
    found = []
    network = model.network.eval()
    for batch in batches:
        with observed_features(network) as seen:
            network(batch.to(model.device))
        found.append(seen[-1].flatten(1).double().cpu())
    return torch.cat(found).numpy()


def probe_score(features: np.ndarray, labels: np.ndarray, seed: int = 0) -> float:
    """Macro F1 of logistic regression on the features, cross-validated on three folds.

    Args:
        features: `[N, D]`.
        labels: `[N]` classes, or `[N, K]` of several labels, each a regression of its own.
        seed: of the folds.

    Raises:
        DataError: a class has a single image.

    Example:
        >>> random, labels = np.random.default_rng(0), np.arange(60) % 2
        >>> good, bad = random.normal(labels[:, None], 0.3, (60, 5)), random.normal(0, 1, (60, 5))
        >>> probe_score(good, labels) > probe_score(bad, labels)
        True
    """
    from sklearn.model_selection import cross_val_score

    model, validation = cross_validated(labels, STRENGTH, FOLDS, seed)
    return float(cross_val_score(model, features, scoring="f1_macro", **validation).mean())


def linear_cka(one: Tensor, other: Tensor) -> Tensor:
    """How alike two sets of features see the same images: linear centred kernel alignment (arXiv 1905.00414).

    No rotation and no scale of the features changes it.

    Args:
        one: `[N, D]`.
        other: `[N, E]`, of the same images.

    Returns:
        A scalar from 0 to 1.

    Example:
        >>> features = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]])
        >>> round(linear_cka(features, 3 * features.flip(1)).item(), 3)
        1.0
    """
    grams = []
    for features in (one, other):
        centred = features.float() - features.float().mean(0)
        grams.append(centred @ centred.T)
    product = (grams[0] * grams[1]).sum()
    return product / (grams[0].norm() * grams[1].norm()).clamp_min(1e-12)


def likeness(features: list[np.ndarray]) -> np.ndarray:
    """[`linear_cka`] between sources: how alike two of them see the target's images.

    Args:
        features: of each source, on the same images.

    Returns:
        `[S, S]`, 1 on the diagonal.
    """
    tensors = [torch.from_numpy(np.asarray(own)) for own in features]
    return np.array([[float(linear_cka(one, other)) for other in tensors] for one in tensors])
