import math

import numpy as np
import pytest

from medmerge_hf.errors import SettingsError
from medmerge_hf.evaluation.bootstrap import bootstrap_intervals
from medmerge_hf.evaluation.compute_metrics import RegisteredMetric, _warn_undefined, make_compute_metrics
from medmerge_hf.evaluation.metrics import METRICS, Metric


@pytest.mark.parametrize(
    ("predictions", "references", "f1", "balanced"),
    [
        ([0, 1, 1], [0, 1, 1], 1.0, 1.0),
        ([0, 0, 0, 0], [0, 0, 0, 1], (6 / 7) / 2, 0.5),
        ([1, 1, 0, 0], [0, 0, 1, 1], 0.0, 0.0),
    ],
)
def test_known_values(predictions, references, f1, balanced):
    for name, figure in (("macro_f1", f1), ("balanced_accuracy", balanced)):
        found = RegisteredMetric(name).compute(prediction_scores=np.eye(2)[predictions], references=references)
        assert found == {name: pytest.approx(figure)}


def test_a_class_that_is_neither_predicted_nor_present_counts_as_0():
    figures = make_compute_metrics(3)((np.array([[9.0, 0, 0], [0, 9.0, 0]]), np.array([0, 1])))
    assert figures["macro_f1"] == pytest.approx(2 / 3)
    assert figures["accuracy"] == 1


def test_auroc_is_the_average_of_one_against_the_rest():
    scores = [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.5, 0.4], [0.3, 0.3, 0.4]]
    found = RegisteredMetric("auroc").compute(prediction_scores=scores, references=[0, 1, 2, 2])["auroc"]
    assert found == pytest.approx((1 + 1 + 1) / 3)


def test_auroc_of_a_class_that_never_occurs_is_nan_with_one_warning(caplog):
    _warn_undefined.cache_clear()
    compute = make_compute_metrics(2)
    for _ in range(2):
        assert math.isnan(compute((np.array([[0.2, 0.8], [0.3, 0.7]]), np.array([1, 1])))["auroc"])
    assert caplog.text.count("do not occur") == 1


def test_several_labels_reach_the_metric_through_arrow():
    found = RegisteredMetric("accuracy").compute(
        prediction_scores=[[0.9, 0.2, 0.6], [0.1, 0.2, 0.3]], references=[[1, 0, 0], [0, 0, 1]]
    )
    assert found["accuracy"] == pytest.approx(4 / 6)


def test_a_model_of_another_number_of_classes_is_refused():
    with pytest.raises(SettingsError, match=r"make_compute_metrics\(3\).*of 2 classes"):
        make_compute_metrics(3)((np.zeros((1, 2)), np.array([0])))


def test_a_figure_that_is_registered_is_computed_beside_every_evaluation(monkeypatch):
    def share_of_the_first(seen):
        return seen.chosen[:, 0].mean()

    own = Metric("first", "share of the first class", share_of_the_first, "first", training=True, task="classes")
    monkeypatch.setitem(METRICS, "first", own)
    logits, labels = np.eye(2)[[0, 0, 0, 1]], np.array([0, 0, 0, 1])
    assert make_compute_metrics(2)((logits, labels))["first"] == 0.75
    interval = bootstrap_intervals(make_compute_metrics(2), logits, labels, 200)["first"]
    assert interval["low"] < interval["value"] == 0.75 < interval["high"]
    assert "first" not in make_compute_metrics(2, multi_label=True)((logits, np.eye(2)[labels]))
