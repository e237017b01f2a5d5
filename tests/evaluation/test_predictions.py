import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from medmerge_hf.errors import SettingsError
from medmerge_hf.evaluation.metrics import METRICS
from medmerge_hf.evaluation.predictions import Predictions, Resamples, counts_of, of_truth, resample_draws


@st.composite
def drawn(draw):
    """Logits with ties, labels of which classes may be missing, and draws."""
    images, classes, multi_label = draw(st.integers(1, 25)), draw(st.integers(2, 4)), draw(st.booleans())
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits = random.integers(-3, 4, (images, classes)) / draw(st.sampled_from([1, 2, 7]))
    if draw(st.booleans()):
        logits += random.normal(size=logits.shape)
    most = draw(st.integers(1, classes))
    labels = random.integers(2, size=logits.shape) if multi_label else random.integers(most, size=images)
    draws = random.integers(images, size=(draw(st.integers(1, 6)), images))
    return logits, labels, multi_label, draws


def by_scikit_learn(logits, labels, multi_label):
    """The four figures of one set of images."""
    everyone = np.arange(logits.shape[1])
    if multi_label:
        truth, chosen, scores = labels == 1, logits >= 0, 1 / (1 + np.exp(-logits))
        sides = [sk.recall_score(truth == side, chosen == side, average=None, zero_division=0) for side in (1, 0)]
        balanced, accuracy = np.mean(sides), (truth == chosen).mean()
        f1 = sk.f1_score(truth, chosen, average="macro", zero_division=0)
    else:
        truth, chosen = labels[:, None] == everyone, logits.argmax(1)
        scores = np.exp(logits - logits.max(1, keepdims=True))
        scores /= scores.sum(1, keepdims=True)
        balanced = sk.recall_score(labels, chosen, labels=np.unique(labels), average="macro")
        accuracy = sk.accuracy_score(labels, chosen)
        f1 = sk.f1_score(labels, chosen, labels=everyone, average="macro", zero_division=0)
    whole = truth.any(0) & ~truth.all(0)
    area = sk.roc_auc_score(truth, scores, average="macro") if whole.all() else np.nan
    return {"macro_f1": f1, "balanced_accuracy": balanced, "accuracy": accuracy, "auroc": area}


@given(drawn())
@settings(max_examples=80, deadline=None)
def test_every_resample_has_the_figures_that_scikit_learn_gives_it(case):
    logits, labels, multi_label, draws = case
    together = Resamples(Predictions.of_logits(logits, labels, multi_label), counts_of(draws))
    found = {name: metric.values(together) for name, metric in METRICS.items() if metric.training}
    for place, draw in enumerate(draws):
        for name, figure in by_scikit_learn(logits[draw], labels[draw], multi_label).items():
            np.testing.assert_allclose(found[name][place], figure, atol=1e-12, err_msg=name)


@given(st.integers(1, 40), st.integers(1, 30), st.integers(1, 200))
def test_draws_are_the_same_in_blocks_of_any_size(images, resamples, cells):
    whole = np.random.default_rng(3).integers(images, size=(resamples, images))
    blocks = list(resample_draws(images, resamples, 3, cells))
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
    assert max(block.size for block in blocks) <= max(cells, images)
    np.testing.assert_array_equal(counts_of(whole).sum(1), images)


def test_a_figure_without_array_arithmetic_is_taken_of_each_resample():
    logits, labels = np.random.default_rng(0).normal(size=(12, 3)), np.arange(12) % 3
    seen, counts = (
        Predictions.of_logits(logits, labels),
        counts_of(np.random.default_rng(1).integers(12, size=(4, 12))),
    )
    found = METRICS["brier"].values(Resamples(seen, counts))
    each = np.square(seen.scores - seen.truth).sum(1)
    np.testing.assert_allclose(found, counts @ each / 12)


def test_outputs_that_are_not_finite_are_refused():
    with pytest.raises(SettingsError, match=r"1 of 2 images.*diverged"):
        Predictions.of_logits(np.array([[0.0, 1.0], [np.nan, 0.0]]), np.array([0, 1]))


def test_labels_beyond_the_classes_are_refused_with_the_number_that_is_needed():
    with pytest.raises(SettingsError, match=r"from 0 to 4.*of 3 classes.*num_labels=5"):
        Predictions.of_logits(np.zeros((2, 3)), np.array([0, 4]))
    with pytest.raises(SettingsError, match="from -100 to 1"):
        Predictions.of_probabilities(np.full((2, 3), 1 / 3), np.array([-100, 1]))


def test_logits_are_no_probabilities():
    with pytest.raises(SettingsError, match=r"from -1\.0 to 2\.0"):
        Predictions.of_probabilities(np.array([[-1.0, 2.0]]), np.array([0]))


def test_of_several_labels_the_probability_of_each_ones_truth_counts():
    found = of_truth(np.array([[0.9, 0.2]]), np.array([[1.0, 0.0]]))
    np.testing.assert_allclose(found, [0.9, 0.8])
