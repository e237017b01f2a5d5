import numpy as np
import pytest
from scipy.special import softmax
from torch import nn

from medmerge_hf.evaluation.ensemble import HeldOut
from medmerge_hf.runs.teachers import shares_of, teachers_of


@pytest.fixture
def seen():
    """Of a network that knows half of the images, one that guesses, and one that knows the other half."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (300, 3))
    labels = np.array([random.choice(3, p=row) for row in softmax(logits, axis=1)])
    first, second = (np.where(np.arange(300)[:, None] % 2 == part, logits, 0) for part in (0, 1))
    return [HeldOut(values, labels) for values in (4 * first, random.normal(0, 9, logits.shape), 2 * second)]


def test_a_network_that_guesses_does_not_teach(seen):
    networks = [nn.Flatten() for _ in seen]
    teachers = teachers_of(networks, shares_of(seen))
    assert list(teachers.networks) == [networks[0], networks[2]]
    assert teachers.shares == pytest.approx([0.5, 0.5], abs=0.1)


def test_what_a_teacher_counts_is_told_at_its_temperature(seen):
    surer = [HeldOut(3 * seen[0].logits, seen[0].labels), *seen[1:]]
    np.testing.assert_allclose(shares_of(surer), shares_of(seen), atol=0.01)
