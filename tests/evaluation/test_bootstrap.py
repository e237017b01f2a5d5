import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmerge_hf.errors import SettingsError
from medmerge_hf.evaluation.bootstrap import bootstrap_intervals, paired_gain
from medmerge_hf.evaluation.compute_metrics import make_compute_metrics


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8), st.floats(-0.5, 0.5))
def test_a_constant_advantage_is_its_own_interval(scores, advantage):
    gain = paired_gain([score + advantage for score in scores], scores)
    assert gain.mean == pytest.approx(advantage, abs=1e-9)
    assert gain.low == pytest.approx(gain.high, abs=1e-9)
    assert gain.wins + gain.ties + gain.losses == len(scores)


def test_the_interval_covers_the_truth():
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        gain = paired_gain(random.normal(0.03, 0.05, 10), np.zeros(10))
        covered += gain.low <= 0.03 <= gain.high
    assert covered >= 48


def test_settings_count_the_same_and_widen_the_interval():
    ours, names = [0.1] * 9 + [0.0], ["a"] * 9 + ["b"]
    pooled, grouped = paired_gain(ours, [0.0] * 10), paired_gain(ours, [0.0] * 10, names)
    assert grouped.mean == pytest.approx(0.05)
    assert grouped.high - grouped.low > pooled.high - pooled.low
    assert grouped.record == "9/1/0"


@pytest.mark.parametrize("multi_label", [False, True])
def test_all_resamples_at_once_have_the_intervals_of_one_after_the_other(multi_label):
    random = np.random.default_rng(0)
    logits = random.normal(size=(60, 4)).astype(np.float32)
    labels = random.integers(2, size=(60, 4)) if multi_label else random.choice(4, 60, p=[0.5, 0.3, 0.15, 0.05])
    compute = make_compute_metrics(4, multi_label)
    draws = np.random.default_rng(0).integers(60, size=(200, 60))  # as they were drawn in 0.1.0
    found = bootstrap_intervals(compute, logits, labels, 200)
    one_by_one = bootstrap_intervals(lambda prediction: compute(prediction), logits, labels, 200)
    figures = [compute((logits[draw], labels[draw])) for draw in draws]
    for name, interval in found.items():
        values = np.array([figure[name] for figure in figures])
        low, high = np.nanquantile(values, [0.025, 0.975])
        wanted = {"value": compute((logits, labels))[name], "low": low, "high": high}
        assert interval == pytest.approx(wanted, abs=1e-12)
        assert one_by_one[name] == pytest.approx(wanted, abs=1e-12)


def test_any_figure_has_an_interval():
    def mean_of_labels(prediction):
        return {"mean": float(prediction[1].mean())}

    found = bootstrap_intervals(mean_of_labels, np.zeros((40, 2)), np.arange(40) % 2, 300)["mean"]
    assert found["value"] == 0.5
    assert 0.3 < found["low"] < 0.45
    assert 0.55 < found["high"] < 0.7


def test_bootstrap_intervals_cover_the_truth_and_shrink_with_more_images():
    rng, compute = np.random.default_rng(0), make_compute_metrics(2)
    widths, covered = [], 0
    for images in (30, 300):
        for _ in range(10):
            labels = rng.integers(2, size=images)
            right = rng.random(images) < 0.8
            logits = np.eye(2)[np.where(right, labels, 1 - labels)]
            found = bootstrap_intervals(compute, logits, labels, 100)["accuracy"]
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


def test_nothing_is_drawn_of_nothing():
    for images, resamples in ((0, 10), (10, 0)):
        with pytest.raises(SettingsError, match=f"{images}, {resamples}"):
            bootstrap_intervals(make_compute_metrics(2), np.zeros((images, 2)), np.zeros(images, int), resamples)
