import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, softmax

from medmerge_hf.errors import SettingsError
from medmerge_hf.evaluation.ensemble import HeldOut, clearly_worse, mixture_weights, useful_weights


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


def test_worse_by_chance_is_not_clearly_worse():
    random = np.random.default_rng(0)
    theirs, noise = random.uniform(0.2, 0.9, 100), random.normal(0, 0.1, 100)
    assert not clearly_worse(theirs * np.exp(noise - noise.mean() - 0.005), theirs)
    assert clearly_worse(theirs * np.exp(noise - noise.mean() - 0.05), theirs)


def test_a_network_that_a_handful_of_images_makes_look_useless_stays():
    random = np.random.default_rng(0)
    good = random.uniform(0.3, 0.9, 16)
    other = good * random.uniform(0.6, 1.3, 16)
    alone, both = (-np.log(mixture_weights(one) @ one).mean() for one in (good[None], np.stack([good, other])))
    assert alone < both
    assert min(useful_weights(np.stack([good, other]))) > 0.2


def test_no_network_is_refused():
    with pytest.raises(SettingsError, match="need their probabilities"):
        mixture_weights(np.zeros((0, 3)))


@given(st.integers(0, 1000), st.floats(1.2, 8), st.booleans())
def test_a_network_that_is_too_sure_gets_the_temperature_that_makes_it_right(seed, factor, several):
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (4000, 3))
    if several:
        labels = (random.random(logits.shape) < expit(logits)).astype(float)
    else:
        labels = np.array([random.choice(3, p=row) for row in softmax(logits, axis=1)])
    assert HeldOut(factor * logits, labels).temperature == pytest.approx(factor, rel=0.15)


def test_priors_are_no_part_of_what_a_temperature_divides():
    random = np.random.default_rng(0)
    logits, priors = random.normal(0, 2, (4000, 3)), np.log([0.8, 0.15, 0.05])
    labels = np.array([random.choice(3, p=row) for row in softmax(logits + priors, axis=1)])
    assert HeldOut(3 * logits, labels, priors).temperature == pytest.approx(3, rel=0.1)


def test_a_network_that_is_right_of_few_images_is_not_made_surer():
    assert HeldOut(np.eye(3), np.arange(3)).temperature == pytest.approx(1, abs=1e-3)
