"""What a model says of images beside what is true, and both counted over many resamples at once."""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
from scipy.special import expit, softmax

from ..errors import SettingsError


LEAST = 1e-7  # probability, where logarithms are taken


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """A model's predictions of N images with K classes or labels.

    Attributes:
        scores: `[N, K]` probabilities.
        truth: `[N, K]`, whether an image has a class or label.
        chosen: `[N, K]`, whether the model says so.
        multi_label: an image may have several labels, or none.
    """

    scores: np.ndarray
    truth: np.ndarray
    chosen: np.ndarray
    multi_label: bool

    @classmethod
    def of_logits(cls, logits: np.ndarray, labels: np.ndarray, multi_label: bool = False) -> "Predictions":
        """From what a network computes.

        Args:
            logits: `[N, K]`.
            labels: `[N]` classes; of several labels `[N, K]`, 1 where an image has one.
            multi_label: whether an image may have several labels: a logit from 0 on is yes.

        Returns:
            The predictions.

        Raises:
            SettingsError: a logit is not finite, or a label is none of the K.

        Example:
            >>> Predictions.of_logits(np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([0, 0])).chosen.tolist()
            [[True, False], [False, True]]
        """
        logits, labels = np.asarray(logits), np.asarray(labels)
        if broken := int((~np.isfinite(logits).all(axis=1)).sum()):
            raise SettingsError(
                f"The outputs of {broken} of {len(logits)} images are not finite: the training diverged. "
                "Take a lower learning_rate or max_grad_norm, or train without fp16."
            )
        if multi_label:
            return cls(expit(logits), labels >= 0.5, logits >= 0, True)
        return cls(softmax(logits, axis=1), one_hot(labels, logits.shape[1]), _largest(logits), False)

    @classmethod
    def of_probabilities(cls, probabilities: np.ndarray, labels: np.ndarray) -> "Predictions":
        """From probabilities.

        Args:
            probabilities: `[N, K]`.
            labels: `[N]` classes; of several labels `[N, K]`: a probability from 0.5 on is yes.

        Returns:
            The predictions.

        Raises:
            SettingsError: a probability is not between 0 and 1, or a label is none of the K.
        """
        scores, labels = np.asarray(probabilities, dtype=float), np.asarray(labels)
        if not ((scores >= 0) & (scores <= 1)).all():
            raise SettingsError(f"Probabilities reach from {scores.min()} to {scores.max()}, not from 0 to 1.")
        if labels.ndim == 2:
            return cls(scores, labels >= 0.5, scores >= 0.5, True)
        return cls(scores, one_hot(labels, scores.shape[1]), _largest(scores), False)

    def __len__(self) -> int:
        return len(self.truth)

    def repeated(self, counts: np.ndarray) -> "Predictions":
        """The same with each image as often as `counts [N]` says."""
        images = np.repeat(np.arange(len(self)), counts)
        return Predictions(self.scores[images], self.truth[images], self.chosen[images], self.multi_label)

    @functools.cached_property
    def ranks(self) -> list[tuple[np.ndarray, ...]]:
        """For each class: images by score; of them those that have it; where images of their score begin and end."""
        found = []
        for scores, truth in zip(self.scores.T, self.truth.T, strict=True):
            order = np.argsort(scores, kind="stable")
            ordered, positive = scores[order], np.flatnonzero(truth[order])
            ends = [np.searchsorted(ordered, ordered[positive], side) for side in ("left", "right")]
            found.append((order, positive, *ends))
        return found


class Resamples:
    """Predictions of which each resample holds every image so often: figures of all resamples are array arithmetic.

    Args:
        seen: the predictions of N images.
        counts: `[R, N]`, how often each of R resamples holds an image.

    Example:
        >>> seen = Predictions.of_logits(np.eye(2)[[0, 1, 1]], np.array([0, 1, 0]))
        >>> Resamples(seen, np.array([[1, 1, 1], [0, 3, 0]])).hits.tolist()
        [[1.0, 1.0], [0.0, 3.0]]
    """

    def __init__(self, seen: Predictions, counts: np.ndarray) -> None:
        self.seen, self.counts = seen, counts.astype(float)
        self.images = self.counts.sum(axis=1, keepdims=True)  # [R, 1]

    @functools.cached_property
    def positives(self) -> np.ndarray:
        """`[R, K]`: images that have a class."""
        return self.counts @ self.seen.truth.astype(float)

    @functools.cached_property
    def named(self) -> np.ndarray:
        """`[R, K]`: images of which the model says so."""
        return self.counts @ self.seen.chosen.astype(float)

    @functools.cached_property
    def hits(self) -> np.ndarray:
        """`[R, K]`: images that have it and of which the model says so."""
        return self.counts @ (self.seen.truth & self.seen.chosen).astype(float)

    def areas(self) -> np.ndarray:
        """`[R, K]`: area under the ROC curve of each class against the rest; NaN where one of the two is missing.

        It is the Mann-Whitney statistic: the share of pairs of an image that has the class and one that has not in
        which the first has the higher score, pairs of one score counting half.
        """
        wins, below = np.empty_like(self.positives), np.zeros((len(self.counts), len(self.seen) + 1))
        for column, (order, positive, begins, ends) in enumerate(self.seen.ranks):
            counts = np.take(self.counts, order, axis=1)  # [R, N] by score
            np.cumsum(counts, axis=1, out=below[:, 1:])
            middle = (below[:, begins] + below[:, ends]) / 2
            wins[:, column] = np.einsum("rn,rn->r", counts[:, positive], middle)
        wins -= self.positives**2 / 2  # over images that have the class as well: half of these pairs
        return ratio(wins, self.positives * (self.images - self.positives), np.nan)


def ratio(part: np.ndarray, whole: np.ndarray, empty: float = 0.0) -> np.ndarray:
    """`part / whole`, and `empty` where the whole is 0."""
    return np.divide(part, whole, out=np.full_like(part, empty), where=whole != 0)


def of_truth(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The probability that a network gives to what is true.

    Args:
        probabilities: `[N, K]`.
        labels: `[N]` classes, or `[N, K]` of several labels.

    Returns:
        `[N]`, or `[N * K]`: a label is present or not.

    Example:
        >>> of_truth(np.array([[0.75, 0.25]]), np.array([1])).tolist()
        [0.25]
    """
    sure = np.clip(probabilities, LEAST, 1 - LEAST)
    if labels.ndim == 1:
        return sure[np.arange(len(labels)), labels]
    return np.where(labels >= 0.5, sure, 1 - sure).ravel()


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """`[N, K]` from classes `[N]`.

    Raises:
        SettingsError: a label is none of the K classes.
    """
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise SettingsError(
            f"Labels reach from {labels.min()} to {labels.max()}, predictions are of {classes} classes, 0 to "
            f"{classes - 1}: make the model with num_labels={max(int(labels.max()) + 1, 2)}, or leave such labels out."
        )
    return labels[:, None] == np.arange(classes)


def _largest(scores: np.ndarray) -> np.ndarray:
    return scores.argmax(axis=1)[:, None] == np.arange(scores.shape[1])


def resample_draws(images: int, resamples: int, seed: int, cells: int = 2**17) -> Iterator[np.ndarray]:
    """Draws with replacement, in blocks, so that memory does not grow with the number of resamples.

    Args:
        images: N.
        resamples: R.
        seed: of the draws, which are the same whatever the size of a block.
        cells: draws a block, at least one resample.

    Yields:
        `[B, N]` indices of images.
    """
    random, rows = np.random.default_rng(seed), max(1, cells // images)
    for start in range(0, resamples, rows):
        yield random.integers(images, size=(min(rows, resamples - start), images))


def counts_of(draws: np.ndarray) -> np.ndarray:
    """How often each of `[R, N]` draws holds an image, `[R, N]`.

    Example:
        >>> counts_of(np.array([[0, 0, 2], [1, 2, 2]])).tolist()
        [[2, 0, 1], [0, 1, 2]]
    """
    rows, images = draws.shape
    places = draws + images * np.arange(rows)[:, None]
    return np.bincount(places.ravel(), minlength=rows * images).reshape(rows, images)
