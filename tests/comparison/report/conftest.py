"""Rows of a small comparison that was never run."""

import numpy as np
import pytest

from medmerge_hf.comparison.report.rows import BEST_SOURCE, USUAL_SOURCE, Row


def make_row(setting, method, seed, score, fraction=1.0):
    random = np.random.default_rng(seed)
    labels = np.arange(12) % 2
    scores = {"macro_f1": score, "ece": 0.1}
    notes = {"depth": {"stem": {"a": 0.9, "b": 0.1}, "body": {"a": 1.2, "b": -0.2}}, "merged": {"validation": 0.3}}
    probabilities = random.dirichlet([1, 1], 12)
    return Row(setting, method, seed, scores, scores, notes, probabilities, labels, setting, fraction, ("ill", "well"))


@pytest.fixture
def row():
    """One run: of setting, method, seed, macro F1 and share of labels."""
    return make_row


@pytest.fixture
def rows():
    found = []
    for setting, gain in (("x <- a + b", 0.1), ("y <- a + b", -0.02)):
        for seed in range(3):
            for method in (BEST_SOURCE, USUAL_SOURCE, "a, fine-tuned"):
                found.append(make_row(setting, method, seed, 0.5 + 0.01 * seed))
            found.append(make_row(setting, "MedMerge (best)", seed, 0.5 + 0.01 * seed + gain))
    return found
