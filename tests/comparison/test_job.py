import numpy as np
import pytest

from medmerge_hf.comparison.job import Job, weights_of
from medmerge_hf.comparison.methods.averaging import greedy_soup
from medmerge_hf.comparison.plan import settings_of
from medmerge_hf.comparison.run_store import Outcome
from medmerge_hf.runs.build import load_data
from medmerge_hf.runs.config import read_options
from medmerge_hf.runs.settings import make_settings


@pytest.fixture
def settings_with(config):
    """Settings of one run of a comparison, with other options."""
    (setting,) = settings_of(read_options([str(config)]))

    def make(**options):
        return make_settings({**setting.options, "output_dir": str(config.parent / "run"), **options})

    return make


def test_a_greedy_soup_that_takes_no_other_in_is_the_best_network_as_it_is(settings_with, monkeypatch):
    settings = settings_with()
    target, labels = load_data(settings), {"validation": np.array([0, 1, 2])}
    states = [weights_of(Job(settings, target).single()) for _ in range(2)]
    wrong, right = ({"validation": np.eye(3)[order]} for order in ([1, 2, 0], [0, 1, 2]))
    tuned = [Outcome(p, labels, {"end": state}) for p, state in zip((wrong, right), states, strict=True)]
    job = Job(settings, target, {"fine-tuned": tuned})
    monkeypatch.setattr(Job, "validation_of", lambda *_: 0.5)
    assert greedy_soup(job) is tuned[1]


def test_given_weights_predict_the_same_each_time_on_every_split(settings_with):
    settings = settings_with()
    job = Job(settings, load_data(settings))
    state = weights_of(job.single())
    first, again = (job.of_state(state) for _ in range(2))
    assert first.labels.keys() == {"validation", "test"}
    np.testing.assert_array_equal(first.probabilities["test"], again.probabilities["test"])


def test_one_stage_has_the_budget_of_both(settings_with):
    for counted, total in ({"num_train_epochs": 2}, 4), ({"max_steps": 3}, 6):
        stage = {"num_train_epochs": 1, "use_cpu": True, "disable_tqdm": True} | counted
        settings = settings_with(merge=stage, finetune=stage)
        job = Job(settings, load_data(settings))
        args = job.trainer(job.single(), "both").args
        assert {name: getattr(args, name) for name in counted} == dict.fromkeys(counted, total)
