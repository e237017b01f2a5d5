import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmerge_hf.evaluation.bootstrap import paired_gain


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
