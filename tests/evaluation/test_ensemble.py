import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from medmerge_hf.errors import SettingsError
from medmerge_hf.evaluation.ensemble import mixture_weights, useful_weights


@given(st.integers(0, 1000), st.integers(2, 4), st.floats(0.5, 20))
def test_weights_are_those_of_the_highest_posterior(seed, networks, prior):
    truths = np.random.default_rng(seed).uniform(0.05, 1, (networks, 30))

    def loss(free):
        weights = np.exp(free) / np.exp(free).sum()
        return -np.log(weights @ truths).sum() - prior * np.log(weights).sum()

    best = minimize(loss, np.zeros(networks)).x
    np.testing.assert_allclose(mixture_weights(truths, prior), np.exp(best) / np.exp(best).sum(), atol=1e-3)


def test_without_images_to_tell_them_apart_networks_count_alike():
    np.testing.assert_allclose(mixture_weights(np.full((3, 5), 0.4)), 1 / 3)


def test_a_network_that_only_raises_the_loss_gets_no_weight():
    random = np.random.default_rng(0)
    good, other = np.where(random.random(200) < 0.5, [[0.9], [0.3]], [[0.3], [0.9]]).reshape(2, -1)
    found = useful_weights(np.stack([good, other, np.full(200, 0.1)]))
    assert found[2] == 0
    assert min(found[:2]) > 0.3


def test_no_network_is_refused():
    with pytest.raises(SettingsError, match="need their probabilities"):
        mixture_weights(np.zeros((0, 3)))
