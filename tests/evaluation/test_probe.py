import numpy as np
import pytest
from sklearn import metrics

from medmerge_hf.errors import DataError
from medmerge_hf.evaluation.probe import Probe, gain, log_loss, macro_f1, probe


LABELS = np.arange(90) % 3
SEVERAL = np.stack([LABELS == 0, LABELS != 1], axis=1).astype(float)


def features(noise, seed=0, axes=3):
    """What tells the first `axes` classes from the others, among noise."""
    random = np.random.default_rng(seed)
    told = np.eye(3)[LABELS][:, :axes] @ random.normal(size=(axes, 12))
    return told + noise * random.normal(size=(90, 12))


@pytest.mark.parametrize("labels", [LABELS, SEVERAL], ids=["single", "several"])
def test_the_loss_is_that_of_scikit_learn(labels):
    found = probe(features(1.0), labels)
    if labels.ndim == 1:
        wanted = metrics.log_loss(labels, found.probabilities)
    else:
        wanted = np.mean([metrics.log_loss(labels[:, k], found.probabilities[:, k]) for k in range(2)])
    assert found.losses.mean() == pytest.approx(wanted, abs=1e-6)
    assert found.figures["macro_f1"] > 0.8


def test_no_image_is_predicted_by_a_regression_that_has_seen_it():
    noise = np.random.default_rng(0).normal(size=(90, 500))
    assert probe(noise, LABELS).losses.mean() > 0.95 * np.log(3)


def test_sources_that_know_different_things_gain_together():
    one, other = features(1.0, 0, axes=1), features(1.0, 1, axes=2)[:, ::-1]
    best, both = probe(other, LABELS), probe(np.concatenate([one, other], axis=1), LABELS)
    found = gain(both, best, log_loss)
    assert found.low <= found.mean <= found.high
    assert found.mean == pytest.approx(both.losses.mean() - best.losses.mean())
    assert gain(both, best, macro_f1).mean == pytest.approx(both.figures["macro_f1"] - best.figures["macro_f1"])


def test_a_source_gains_nothing_beside_itself():
    same = probe(features(1.0), LABELS)
    assert str(gain(same, same, log_loss)) == "+0.000 (+0.000 to +0.000)"


def test_a_class_of_one_image_is_named():
    with pytest.raises(DataError, match="Class 1 has 1 training image"):
        probe(features(1.0)[:4], np.array([0, 0, 1, 0]))


def test_a_certain_mistake_costs_a_finite_loss():
    assert np.isfinite(Probe(np.array([[0.0, 1.0]]), np.array([0])).losses).all()
