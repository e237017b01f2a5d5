import math

import numpy as np
import pytest

from medmerge_hf.evaluation.metrics import all_scores, calibration_error, sensitivity_at


def test_sensitivity_is_read_off_the_roc_curve():
    # 10 healthy with scores 0.0 ... 0.9: a specificity of 0.9 allows one of them above the threshold.
    scores = np.array([*np.arange(10) / 10, 0.85, 0.95, 0.05, 0.88])
    labels = np.array([0] * 10 + [1] * 4)
    both = np.stack([1 - scores, scores], axis=1)
    positive = sensitivity_at(both, labels, 0.9)

    def best(own, other):
        return max((own >= t).mean() for t in np.append(scores, 1 - scores) if (other >= t).mean() <= 0.1)

    ill, well = scores[labels == 1], scores[labels == 0]
    assert positive == pytest.approx((best(ill, well) + best(1 - well, 1 - ill)) / 2)


def test_sensitivity_of_a_missing_class_is_nan():
    assert math.isnan(sensitivity_at(np.array([[0.2, 0.8], [0.3, 0.7]]), np.array([1, 1])))


def test_confidence_that_is_not_deserved_is_an_error_of_calibration():
    sure = np.tile([[0.9, 0.1]], (100, 1))
    assert calibration_error(sure, np.array([0] * 90 + [1] * 10)) == pytest.approx(0.0, abs=1e-3)
    assert calibration_error(sure, np.array([0] * 50 + [1] * 50)) == pytest.approx(0.4, abs=1e-3)


def test_kappa_counts_grades_that_are_far_off_more():
    labels = np.array([0, 1, 2, 3] * 5)
    near, far = np.eye(4)[np.minimum(labels + 1, 3)], np.eye(4)[3 - labels]
    assert all_scores(near, labels, ordered=True)["qwk"] > 0.5 > all_scores(far, labels, ordered=True)["qwk"]
    assert "qwk" not in all_scores(near, labels)


def test_brier_is_the_square_distance_to_the_truth():
    assert all_scores(np.array([[0.5, 0.5], [0.0, 1.0]]), np.array([0, 1]))["brier"] == pytest.approx(0.25)
