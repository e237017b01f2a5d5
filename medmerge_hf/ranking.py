"""Which sources promise most for a target, from one forward pass each and no training."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .distillation import linear_cka
from .networks import observed_features


RANKINGS = {"logme": "LogME", "h_score": "H-score", "probe": "linear probe, macro F1"}
FOLDS = 3


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


def logme(features: np.ndarray, labels: np.ndarray, rounds: int = 100) -> float:
    """Log of the maximum evidence of a linear model on the features (You et al., arXiv 2102.11005, algorithm 1).

    Args:
        features: `[N, D]`.
        labels: `[N]` classes.
        rounds: of the fixed point, at most.

    Returns:
        Mean over the classes, each against the rest, divided by N. Higher promises more.
    """
    count, width = features.shape
    left, singular, _ = np.linalg.svd(features, full_matrices=False)
    squares = singular**2
    evidences = []
    for label in np.unique(labels):
        wanted = (labels == label).astype(float)
        along = (left.T @ wanted) ** 2
        rest = max(float(wanted @ wanted - along.sum()), 0.0)
        alpha = beta = 1.0
        for _ in range(rounds):
            before = alpha / beta
            share = squares / (squares + before)
            gamma = share.sum()
            weights = (squares * along / (squares + before) ** 2).sum()
            error = rest + (along * (before / (squares + before)) ** 2).sum()
            alpha, beta = gamma / max(weights, 1e-12), (count - gamma) / max(error, 1e-12)
            if abs(alpha / beta - before) <= 1e-3 * before:
                break
        ratio = alpha / beta
        weights = (squares * along / (squares + ratio) ** 2).sum()
        error = rest + (along * (ratio / (squares + ratio)) ** 2).sum()
        curvature = np.log(alpha + beta * squares).sum() + (width - len(squares)) * np.log(alpha)
        evidence = width * np.log(alpha) + count * np.log(beta) - curvature - beta * error - alpha * weights
        evidences.append((evidence - count * np.log(2 * np.pi)) / 2 / count)
    return float(np.mean(evidences))


def h_score(features: np.ndarray, labels: np.ndarray) -> float:
    """How much of the features' spread lies between classes (Bao et al. 2019; covariance shrunk, arXiv 2111.13410).

    Args:
        features: `[N, D]`.
        labels: `[N]` classes.

    Returns:
        Trace of the inverse covariance times the covariance of the class means. Higher promises more.
    """
    from sklearn.covariance import ledoit_wolf

    centred = features - features.mean(0)
    covariance, _ = ledoit_wolf(centred, assume_centered=True)
    means = np.zeros_like(centred)
    for label in np.unique(labels):
        means[labels == label] = centred[labels == label].mean(0)
    between = means.T @ means / len(means)
    return float(np.trace(np.linalg.lstsq(covariance, between, rcond=None)[0]))


def probe_score(features: np.ndarray, labels: np.ndarray, seed: int = 0) -> float:
    """Macro F1 of logistic regression on the features, cross-validated on three folds.

    Args:
        features: `[N, D]`.
        labels: `[N]` classes.
        seed: of the folds.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    return float(cross_val_score(model, features, labels, cv=folds, scoring="f1_macro").mean())


def rank(features: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """All scores of one source.

    Args:
        features: of [`source_features`].
        labels: `[N]` classes.

    Returns:
        `logme`, `h_score`, `probe`.

    Example:
        >>> random = np.random.default_rng(0)
        >>> labels = np.arange(60) % 2
        >>> good, bad = random.normal(labels[:, None], 0.3, (60, 5)), random.normal(0, 1, (60, 5))
        >>> all(rank(good, labels)[name] > rank(bad, labels)[name] for name in RANKINGS)
        True
    """
    features = np.asarray(features, dtype=float)
    return {
        "logme": logme(features, labels),
        "h_score": h_score(features, labels),
        "probe": probe_score(features, labels),
    }


def likeness(features: list[np.ndarray]) -> np.ndarray:
    """Linear CKA between sources (arXiv 1905.00414): how alike two of them see the target's images.

    Args:
        features: of each source, on the same images.

    Returns:
        `[S, S]`, 1 on the diagonal.
    """
    tensors = [torch.from_numpy(np.asarray(own)) for own in features]
    return np.array([[float(linear_cka(one, other)) for other in tensors] for one in tensors])
