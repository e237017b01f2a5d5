import numpy as np
import pytest

from medmerge_hf.comparison.job import weights_of
from medmerge_hf.comparison.methods.distilling import TAUGHT_MERGE
from medmerge_hf.comparison.methods.matching import matched
from medmerge_hf.comparison.registry import Method
from medmerge_hf.comparison.run_store import Outcome
from medmerge_hf.comparison.runner import Group


def test_matching_trains_nothing(finished_plan):
    (setting,) = finished_plan.settings
    names = (TAUGHT_MERGE, f"{TAUGHT_MERGE} matched")
    before, after = (finished_plan.runs.load(finished_plan.key(setting, name, 0)) for name in names)
    assert after.notes["steps"] == before.notes["steps"] > 0
    assert after.labels["test"].tolist() == before.labels["test"].tolist()


def test_matching_adds_the_same_to_the_logits_of_every_image(finished_plan):
    (setting,) = finished_plan.settings

    def run(job):
        model = job.single()
        given = Outcome({}, {}, {"end": weights_of(model)}, {"steps": 7})
        plain, moved = job.outcome(job.trainer(model, "both")), matched(job, given, 0)
        change = np.log(moved.probabilities["test"]) - np.log(plain.probabilities["test"])
        change -= change.mean(axis=1, keepdims=True)
        assert change == pytest.approx(np.broadcast_to(change[0], change.shape), abs=1e-3)
        assert np.abs(change[0]).max() > 1e-2
        return moved

    outcome = Group(finished_plan, 0, setting.target)._outcome(setting, Method("m", run), setting.options, None)
    assert outcome.notes["steps"] == 7
