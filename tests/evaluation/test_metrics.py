import math

import numpy as np
import pytest

from medmerge_hf.evaluation.bootstrap import bootstrap_intervals
from medmerge_hf.evaluation.metrics import AUROC, BalancedAccuracy, MacroF1, _warn_missing_class, make_compute_metrics


@pytest.mark.parametrize(
    ("predictions", "references", "f1", "balanced"),
    [
        ([0, 1, 1], [0, 1, 1], 1.0, 1.0),
        ([0, 0, 0, 0], [0, 0, 0, 1], (6 / 7) / 2, 0.5),
        ([1, 1, 0, 0], [0, 0, 1, 1], 0.0, 0.0),
    ],
)
def test_known_values(predictions, references, f1, balanced):
    assert MacroF1().compute(predictions=predictions, references=references)["macro_f1"] == pytest.approx(f1)
    found = BalancedAccuracy().compute(predictions=predictions, references=references)["balanced_accuracy"]
    assert found == pytest.approx(balanced)


def test_a_class_that_is_neither_predicted_nor_present_counts_as_0():
    compute = make_compute_metrics(3)
    figures = compute((np.array([[9.0, 0, 0], [0, 9.0, 0]]), np.array([0, 1])))
    assert figures["macro_f1"] == pytest.approx(2 / 3)
    assert figures["accuracy"] == 1


def test_auroc_is_the_average_of_one_against_the_rest():
    scores = [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.5, 0.4], [0.3, 0.3, 0.4]]
    found = AUROC().compute(prediction_scores=scores, references=[0, 1, 2, 2])["auroc"]
    assert found == pytest.approx((1 + 1 + 1) / 3)


def test_auroc_of_a_class_that_never_occurs_is_nan_with_one_warning(caplog):
    _warn_missing_class.cache_clear()
    for _ in range(2):
        assert math.isnan(AUROC().compute(prediction_scores=[[0.2, 0.8], [0.3, 0.7]], references=[1, 1])["auroc"])
    assert caplog.text.count("do not occur") == 1


def test_bootstrap_intervals_cover_the_truth_and_shrink_with_more_images():
    rng, compute = np.random.default_rng(0), make_compute_metrics(2)
    widths, covered = [], 0
    for images in (30, 300):
        for _ in range(10):
            labels = rng.integers(2, size=images)
            right = rng.random(images) < 0.8
            found = bootstrap_intervals(compute, np.eye(2)[np.where(right, labels, 1 - labels)], labels, 100)[
                "accuracy"
            ]
            assert found["low"] <= found["value"] <= found["high"]
            covered += found["low"] <= 0.8 <= found["high"]
        widths.append(found["high"] - found["low"])
    assert covered >= 15
    assert widths[1] < widths[0]


def test_bootstrap_of_a_rare_class_leaves_out_what_is_not_defined():
    labels = np.array([0] * 9 + [1])
    logits = np.stack([np.linspace(1, 0, 10), np.linspace(0, 1, 10)], axis=1)
    found = bootstrap_intervals(make_compute_metrics(2), logits, labels, 50)["auroc"]
    assert found == {"value": 1.0, "low": 1.0, "high": 1.0}
