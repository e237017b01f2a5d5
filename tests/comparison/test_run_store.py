import numpy as np
import pytest

from medmerge_hf.comparison.job import validation_f1
from medmerge_hf.comparison.run_store import Outcome, RunStore
from medmerge_hf.errors import SettingsError


def test_a_run_is_kept_whole_or_not_at_all(tmp_path):
    runs, key = RunStore(tmp_path), {"method": "m", "seed": 0}
    probabilities = np.eye(2)[[0, 1, 1]]
    outcome = Outcome({"validation": probabilities}, {"validation": np.array([0, 1, 0])}, notes={"share": 0.5})
    assert not runs.has(key)
    runs.save(key, outcome, 1.0)
    assert runs.has(key)
    found = runs.load(key)
    assert validation_f1(found) == validation_f1(outcome)
    assert found.notes == {"share": 0.5, "seconds": 1.0}
    assert not runs.has({**key, "seed": 1})


def test_grades_are_put_in_their_order():
    probabilities = np.eye(3)[[0, 1, 2]]
    outcome = Outcome(
        {"test": probabilities}, {"test": np.array([0, 1, 2])}, notes={"classes": ["mild", "none", "severe"]}
    )
    found = outcome.in_order(["none", "mild", "severe"])
    assert found.labels["test"].tolist() == [1, 0, 2]
    assert found.scores("test", ordered=True)["qwk"] == 1.0
    assert found.notes["classes"] == ["none", "mild", "severe"]
    with pytest.raises(SettingsError, match="severe"):
        outcome.in_order(["none", "mild"])
