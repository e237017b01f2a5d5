import numpy as np
import pytest
import torch
from tiny import network

from medmerge_hf import single_source_model
from medmerge_hf.errors import DataError
from medmerge_hf.evaluation.ranking import likeness, linear_cka, probe_score, source_features


LABELS = np.arange(90) % 3


def task(noise, seed=0):
    random = np.random.default_rng(seed)
    return np.eye(3)[LABELS] @ random.normal(size=(3, 20)) + noise * random.normal(size=(90, 20))


def test_features_that_separate_the_classes_score_higher():
    found = [np.mean([probe_score(task(noise, seed), LABELS) for seed in range(3)]) for noise in (0.5, 2.0, 8.0)]
    assert found[0] > found[1] > found[2]


def test_more_features_than_images_are_no_trouble():
    random = np.random.default_rng(0)
    assert 0 <= probe_score(random.normal(size=(30, 200)), LABELS[:30]) < 0.8


def test_few_images_of_a_class_make_fewer_folds_and_one_is_named():
    assert 0 <= probe_score(task(0.5)[:7], LABELS[:7]) <= 1
    with pytest.raises(DataError, match="Class 2 has 1 training image"):
        probe_score(task(0.5)[:5], LABELS[:5])


def test_several_labels_are_a_task_each():
    several = np.stack([LABELS == 0, LABELS != 1], axis=1).astype(float)
    assert probe_score(task(0.5), several) > probe_score(task(8.0), several)


def test_cka_knows_no_rotation_and_no_scale():
    torch.manual_seed(0)
    features, others = torch.randn(32, 8), torch.randn(32, 8)
    rotation = torch.linalg.qr(torch.randn(8, 8))[0]
    assert float(linear_cka(features, 5 * features @ rotation + 1)) == pytest.approx(1.0, abs=1e-5)
    assert float(linear_cka(features, others)) < 0.6


def test_a_network_is_like_itself():
    batches = [torch.rand(8, 3, 32, 32), torch.rand(8, 3, 32, 32)]
    models = [single_source_model(network(seed), num_labels=2, image_size=32) for seed in (0, 0, 1)]
    features = [source_features(model, batches) for model in models]
    assert features[0].shape == (16, 96)
    alike = likeness(features)
    assert alike[0, 1] == pytest.approx(1.0, abs=1e-6)
    assert alike[0, 2] < 0.999
    assert np.allclose(alike, alike.T, atol=1e-6)
