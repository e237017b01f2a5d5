"""Which images belong to which split: the owner's words for splits, and splits that are drawn here."""

import re
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from ..errors import DataError


# What owners call a split, in lower case without spaces and signs, and without a last word of `ENDINGS`.
SYNONYMS = {
    "train": ("train", "training", "trn", "tr", "learning"),
    "validation": (
        *("validation", "validate", "validating", "valid", "val", "vali", "vld"),
        *("dev", "devel", "development", "tune", "tuning"),
    ),
    "test": ("test", "testing", "tst", "holdout", "heldout", "eval", "evaluation", "evaluate"),
    "unlabelled": (
        *("unlabelled", "unlabeled", "unlabel", "unlab", "unlbl", "nolabel", "nolabels", "withoutlabel"),
        *("withoutlabels", "unannotated", "unsup", "unsupervised"),
    ),
}
UNLABELLED = "unlabelled"
ENDINGS = ("dataset", "subset", "set", "split", "data", "images", "imgs", "image", "cases", "samples", "fold")
SPLIT_COLUMN = "split"
# Columns that say it; those after the first only if a cell says training, or every cell is a word above.
SPLIT_COLUMNS = (
    *(SPLIT_COLUMN, "splits", "set", "subset", "partition", "phase", "fold", "usage", "data_split", "split_name"),
    *("dataset", "dataset_split", "data_set", "train_test", "train_val_test", "train_test_split", "mode", "stage"),
)
UNLABELLED_HINT = ", or pass unlabelled=True to use images without a label"
# How much more the size of a split weighs than its mixture of classes.
SIZE_WEIGHT = 10.0
# A split whose share of the images is so far from what was asked is told in a warning.
FAR = 0.05
# Above so many pairs, exchanging one unit for another is not tried: there are enough to come near without.
MANY_PAIRS = 1_000_000
# How many of the best changes are tried, in the order of what they gain, until one keeps every class in training.
CANDIDATES = 50
# Up to this many, other orders are tried too: few units may be stuck far from what their best choice holds.
FEW_UNITS, STARTS = 200, 20


def split_of(word: Any) -> str | None:
    """The split that a word of the owner means.

    Example:
        >>> [split_of(word) for word in ("Training", "val", "Hold-out", "no_label", "test_set", "extra", None)]
        ['train', 'validation', 'test', 'unlabelled', 'test', None, None]
    """
    plain = re.sub(r"[^a-z0-9]", "", str(word).lower())
    ending = next((one for one in ENDINGS if plain.endswith(one) and plain != one), "")
    return next((split for split, words in SYNONYMS.items() if plain.removesuffix(ending) in words), None)


def unlabelled_hint(words: Iterable[Any]) -> str:
    """What helps where images of these splits have no label; in the test split alone it does not."""
    return UNLABELLED_HINT if any(split_of(word) != "test" for word in words) else ""


def word_without_label(folders: Sequence[str]) -> str:
    """The word for the split of an image that lies in some folders and has no label: it may be there to be tested by.

    Example:
        >>> [word_without_label(folders) for folders in (["test", "unsup"], ["train"], ["more", "scans"])]
        ['test', 'unlabelled', 'unlabelled']
    """
    return next((folder for folder in folders if split_of(folder) in ("test", "validation")), UNLABELLED)


def assign(
    words: Sequence[Any] | None, places: Sequence[str], data: str, unlabelled: bool = False
) -> dict[str, list[int]]:
    """Rows of each split; all are `train` where nothing is said.

    Args:
        words: the owner's, of each row.
        places: of the rows.
        data: what the user asked for.
        unlabelled: whether a split of that name is used.

    Raises:
        DataError: a row says no split, or one that the table of synonyms does not know; none is for training.
    """
    if words is None:
        return {"train": list(range(len(places)))}
    plan: dict[str, list[int]] = {}
    unknown: dict[str, list[int]] = {}
    for index, word in enumerate(words):
        split = split_of(word)
        split = split if unlabelled or split != UNLABELLED else None
        (plan.setdefault(split, []) if split else unknown.setdefault(_shown(word), [])).append(index)
    if unknown:
        told = [f"{len(rows)} images {word} (the first is {places[rows[0]]})" for word, rows in unknown.items()]
        raise DataError(
            f"{data!r}: the splits of {', '.join(told)} are not known. Call them train, validation or test (or "
            f"{', '.join(words[1] for words in list(SYNONYMS.values())[:3])}, ...), or take them out of the data"
            f"{UNLABELLED_HINT if any(split_of(word) == UNLABELLED for word in words) else ''}."
        )
    if "train" not in plan:
        raise DataError(f"{data!r} has no training split, only {sorted(plan)}.")
    return {split: plan[split] for split in SYNONYMS if split in plan}


def _shown(word: Any) -> str:
    blank = word is None or word != word or not str(word).strip()
    return "with an empty split" if blank else f"of split {str(word)!r}"


def bound_units(*keys: Sequence[Hashable]) -> np.ndarray:
    """Number of the unit of each row; rows that share a value of any key are of one unit.

    Example:
        >>> bound_units(["a", "b", "b", "c", "d"], [1, 2, 3, 3, 4]).tolist()
        [0, 1, 1, 1, 2]
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rows = len(keys[0])
    values = [np.unique([str(value) for value in key], return_inverse=True)[1] for key in keys]
    offsets = rows + np.cumsum([0, *(value.max(initial=-1) + 1 for value in values)])
    columns = np.concatenate([value + offset for value, offset in zip(values, offsets, strict=False)])
    edges = (np.ones(len(columns)), (np.tile(np.arange(rows), len(keys)), columns))
    graph = coo_matrix(edges, shape=(offsets[-1], offsets[-1]))
    return np.unique(connected_components(graph, directed=False)[1][:rows], return_inverse=True)[1]


def draw(counts: np.ndarray, units: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Rows of a split that is taken off: near the fraction in size and of each class, units whole.

    Every class keeps a row outside the split, and where it stands in two units it gets one inside if that fits.

    Args:
        counts: `[N, K]`, 1 where row `n` is of class `k`.
        units: `[N]`, number of each row's unit.
        fraction: share of the rows, above 0 and below 1.
        seed: of the draw.

    Returns:
        `[N]`, whether a row is taken.
    """
    sizes = np.zeros((units.max(initial=-1) + 1, counts.shape[1] + 1))
    np.add.at(sizes, units, np.hstack([counts, np.ones((len(counts), 1))]))
    aim, random = _Aim(sizes, fraction), np.random.default_rng(seed)
    rarity = np.where(sizes[:, :-1] > 0, aim.whole[:-1], np.inf).min(1)
    orders = [np.lexsort((random.random(len(sizes)), rarity, -sizes[:, -1]))]
    if len(sizes) <= FEW_UNITS:
        orders += [random.permutation(len(sizes)) for _ in range(STARTS)]
    drawn = [_nearer(_filled(sizes, aim, order), sizes, aim) for order in orders]
    return min(drawn, key=lambda taken: aim.loss(sizes[taken].sum(0)))[units]


class _Aim:
    """What a split should hold of each class, and of all images (the last column)."""

    def __init__(self, sizes: np.ndarray, fraction: float) -> None:
        self.whole = sizes.sum(0)
        several = np.append((sizes[:, :-1] > 0).sum(0) > 1, True)
        least = np.minimum(1, self.whole)
        self.target = np.where(several, np.clip(fraction * self.whole, least, np.maximum(self.whole - 1, least)), 0)
        self.weights = np.full(len(self.whole), 1 / max(len(self.whole) - 1, 1))
        self.weights[-1] = SIZE_WEIGHT
        self.weights /= np.maximum(self.target, 1) ** 2

    def loss(self, held: np.ndarray) -> Any:
        """How far from the target; of one split or of `[..., K + 1]`."""
        return (self.weights * (held - self.target) ** 2).sum(-1)

    def loss_of_classes(self, held: np.ndarray) -> Any:
        """How far from the target of each class, whatever the size."""
        return (self.weights[:-1] * (held[:-1] - self.target[:-1]) ** 2).sum()

    def allows(self, held: np.ndarray) -> Any:
        """Whether there is an image inside, and every class keeps one outside."""
        return ((self.whole - held >= 1) | (held == 0)).all(-1) & (held[..., -1] > 0)


def _filled(sizes: np.ndarray, aim: _Aim, order: np.ndarray) -> np.ndarray:
    """Units taken one after another, each that comes nearer to what the split should hold of each class."""
    taken, held = np.zeros(len(sizes), dtype=bool), np.zeros(sizes.shape[1])
    for unit in order:
        more = held + sizes[unit]
        if aim.loss_of_classes(more) < aim.loss_of_classes(held) and aim.allows(more):
            taken[unit], held = True, more
    if not taken.any():  # every unit is further from the target than none, but there shall be a split
        losses = np.where(aim.allows(sizes), aim.loss(sizes), np.inf)
        taken[losses.argmin()] = np.isfinite(losses.min())
    return taken


def _nearer(taken: np.ndarray, sizes: np.ndarray, aim: _Aim) -> np.ndarray:
    """Move single units, and exchange one for another where that is not too many to try, while it comes nearer."""
    taken = taken.copy()
    squares = sizes**2 @ aim.weights
    while True:
        held = sizes[taken].sum(0)
        slopes = 2 * sizes @ (aim.weights * (held - aim.target))
        gains = squares + np.where(taken, -slopes, slopes)  # of moving each unit; below 0 is nearer
        moves = _candidates(gains)
        change = next((move for move in moves if aim.allows(held + np.where(taken[move], -1, 1) @ sizes[move])), None)
        if change is None:
            inside, outside = np.flatnonzero(taken), np.flatnonzero(~taken)
            if len(inside) * len(outside) > MANY_PAIRS:
                return taken
            pairs = gains[inside, None] + gains[outside] - 2 * (sizes[inside] * aim.weights) @ sizes[outside].T
            swaps = (np.array([inside[i], outside[o]]) for i, o in _candidates(pairs))
            change = next((s for s in swaps if aim.allows(held - sizes[s[0]] + sizes[s[1]])), None)
        if change is None:
            return taken
        taken[change] = ~taken[change]


def _candidates(gains: np.ndarray) -> np.ndarray:
    """Places of the changes that come nearest, `[C, dimensions]`, the best first."""
    flat = gains.ravel()
    best = np.argpartition(flat, min(CANDIDATES, len(flat) - 1))[:CANDIDATES] if len(flat) else np.array([], dtype=int)
    best = best[flat[best] < -1e-12]
    return np.stack(np.unravel_index(best[np.argsort(flat[best])], gains.shape), -1)


def few(counts: np.ndarray, single: bool, fraction: float, seed: int) -> np.ndarray:
    """A share of the rows, drawn at random: of each class, or of all rows where a row may have several labels.

    Args:
        counts: `[N, K]`, 1 where row `n` is of class `k`.
        single: whether a row is of one class.
        fraction: share, above 0 and at most 1.
        seed: of the draw.

    Returns:
        Places of the rows, ascending. Every class that stands in a row stands in one of these.
    """
    random = np.random.default_rng(seed)
    kept: set[int] = set()
    for members in counts.T if single else [np.ones(len(counts))]:
        places = random.permutation(np.flatnonzero(members))
        kept.update(places[: max(1, round(fraction * len(places)))].tolist() if len(places) else ())
    order = random.permutation(len(counts))
    for members in counts.T:
        if members.any() and not members[list(kept)].any():
            kept.add(int(order[members[order] > 0][0]))
    return np.array(sorted(kept), dtype=int)
