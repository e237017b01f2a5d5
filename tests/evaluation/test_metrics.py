import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from medmerge_hf.evaluation.metrics import all_scores


def old_sensitivity(scores, truth):
    """As figures of 0.1.0 were read off scikit-learn's ROC curve: `[K]`, at a specificity of 0.9."""
    found = []
    for column, positive in zip(scores.T, truth.T, strict=True):
        false_positive, true_positive, _ = sk.roc_curve(positive, column, drop_intermediate=False)
        found.append(true_positive[false_positive <= 0.1 + 1e-12].max())
    return found


def old_calibration_error(probabilities, labels):
    """Share of images in a bin x |how sure - how often right|, added up."""
    sure, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.clip(np.ceil(sure * 15) - 1, 0, 14)
    return sum((bins == b).mean() * abs(sure[bins == b].mean() - right[bins == b].mean()) for b in np.unique(bins))


@given(st.integers(0, 2**32), st.integers(2, 4), st.sampled_from([1, 5, 1000]))
@settings(max_examples=40, deadline=None)
def test_sensitivity_and_calibration_are_what_they_were(seed, classes, steps):
    random = np.random.default_rng(seed)
    labels = np.append(np.arange(classes), random.integers(classes, size=20 * classes))
    probabilities = random.dirichlet(np.ones(classes), len(labels))
    probabilities = np.round(probabilities * steps) / steps if steps == 5 else probabilities
    found = all_scores(probabilities, labels)
    wanted = np.mean(old_sensitivity(probabilities, labels[:, None] == np.arange(classes)))
    assert found["sensitivity"] == pytest.approx(wanted, abs=1e-6)
    if steps != 5:  # a probability on the edge of a bin may fall on either side
        assert found["ece"] == pytest.approx(old_calibration_error(probabilities, labels), abs=1e-5)


def test_sensitivity_of_several_labels_counts_both_sides_of_each():
    random = np.random.default_rng(0)
    truth, scores = random.random((60, 3)) < 0.4, random.random((60, 3))
    scores = np.where(truth, np.sqrt(scores), scores)
    wanted = np.mean([old_sensitivity(scores, truth), old_sensitivity(1 - scores, ~truth)])
    assert all_scores(scores, truth.astype(float))["sensitivity"] == pytest.approx(wanted, abs=1e-6)


def test_sensitivity_is_read_off_the_roc_curve():
    # 10 healthy with scores 0.0 ... 0.9: a specificity of 0.9 allows one of them above the threshold.
    scores = np.array([*np.arange(10) / 10, 0.85, 0.95, 0.05, 0.88])
    labels = np.array([0] * 10 + [1] * 4)

    def best(own, other):
        return max((own >= t).mean() for t in np.append(scores, 1 - scores) if (other >= t).mean() <= 0.1)

    ill, well = scores[labels == 1], scores[labels == 0]
    found = all_scores(np.stack([1 - scores, scores], axis=1), labels)["sensitivity"]
    assert found == pytest.approx((best(ill, well) + best(1 - well, 1 - ill)) / 2)


def test_sensitivity_of_a_missing_class_is_nan():
    assert math.isnan(all_scores(np.array([[0.2, 0.8], [0.3, 0.7]]), np.array([1, 1]))["sensitivity"])


def test_confidence_that_is_not_deserved_is_an_error_of_calibration():
    sure = np.tile([[0.9, 0.1]], (100, 1))
    assert all_scores(sure, np.array([0] * 90 + [1] * 10))["ece"] == pytest.approx(0.0, abs=1e-3)
    assert all_scores(sure, np.array([0] * 50 + [1] * 50))["ece"] == pytest.approx(0.4, abs=1e-3)


def test_kappa_counts_grades_that_are_far_off_more():
    labels = np.array([0, 1, 2, 3] * 5)
    near, far = np.eye(4)[np.minimum(labels + 1, 3)], np.eye(4)[3 - labels]
    assert all_scores(near, labels, ordered=True)["qwk"] > 0.5 > all_scores(far, labels, ordered=True)["qwk"]
    assert "qwk" not in all_scores(near, labels)


def test_brier_is_the_square_distance_to_the_truth():
    assert all_scores(np.array([[0.5, 0.5], [0.0, 1.0]]), np.array([0, 1]))["brier"] == pytest.approx(0.25)


def test_of_several_labels_there_is_no_calibration_of_the_one_that_was_chosen():
    truth = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    found = all_scores(np.abs(truth - 0.2), truth)
    assert "ece" not in found
    assert found["macro_f1"] == found["auroc"] == 1
    assert found["brier"] == pytest.approx(0.04)
