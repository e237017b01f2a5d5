import numpy as np
import pytest
import torch
from conftest import network

from medmerge_hf import single_source_model
from medmerge_hf.ranking import h_score, likeness, logme, probe_score, rank, source_features


LABELS = np.arange(90) % 3


def task(noise, seed=0):
    random = np.random.default_rng(seed)
    return np.eye(3)[LABELS] @ random.normal(size=(3, 20)) + noise * random.normal(size=(90, 20))


@pytest.mark.parametrize("score", [logme, h_score, probe_score])
def test_features_that_separate_the_classes_score_higher(score):
    found = [np.mean([score(task(noise, seed), LABELS) for seed in range(3)]) for noise in (0.5, 2.0, 8.0)]
    assert found[0] > found[1] > found[2]


def test_logme_is_the_maximum_of_the_evidence():
    random = np.random.default_rng(0)
    features, wanted = random.normal(size=(30, 4)), (LABELS[:30] == 0).astype(float)

    def evidence(alpha, beta):
        covariance = np.eye(30) / beta + features @ features.T / alpha
        _, logdet = np.linalg.slogdet(covariance)
        return -(30 * np.log(2 * np.pi) + logdet + wanted @ np.linalg.solve(covariance, wanted)) / 2 / 30

    grid = [(a, b) for a in np.logspace(-1, 4, 60) for b in np.logspace(-1, 3, 60)]
    best = max(evidence(*place) for place in grid)
    wanted = 1 - wanted
    rest = max(evidence(*place) for place in grid)
    assert logme(features, (LABELS[:30] == 0).astype(int)) == pytest.approx((best + rest) / 2, abs=0.02)


def test_more_features_than_images_are_no_trouble():
    random = np.random.default_rng(0)
    assert all(np.isfinite(value) for value in rank(random.normal(size=(30, 200)), LABELS[:30]).values())


def test_a_network_is_like_itself():
    batches = [torch.rand(8, 3, 32, 32), torch.rand(8, 3, 32, 32)]
    models = [single_source_model(network(seed), num_labels=2, image_size=32) for seed in (0, 0, 1)]
    features = [source_features(model, batches) for model in models]
    assert features[0].shape == (16, 96)
    alike = likeness(features)
    assert alike[0, 1] == pytest.approx(1.0, abs=1e-6)
    assert alike[0, 2] < 0.999
    assert np.allclose(alike, alike.T, atol=1e-6)
