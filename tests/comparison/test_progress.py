import logging

import numpy as np
import pytest

from medmerge_hf.comparison.compare import make_plan
from medmerge_hf.comparison.progress import Progress, planned_runs
from medmerge_hf.comparison.registry import of_each
from medmerge_hf.comparison.run_store import Outcome
from medmerge_hf.runs.config import read_options
from medmerge_hf.runs.progress import Line


NOTHING = Outcome({"validation": np.eye(2)}, {"validation": np.array([0, 1])})


@pytest.fixture
def plan(config):
    """Two methods of all sources, two sources, two seeds."""
    options = read_options([str(config), "--seeds", "0", "1"])
    options["compare"]["methods"] = ["uniform average", "MedMerge (best)"]
    return make_plan(options)


def keep(plan, method, seconds, seed=0):
    setting = plan.settings[0]
    plan.runs.save(plan.key(setting, method, seed), NOTHING, seconds)


def test_runs_left_take_what_runs_of_their_method_took(plan):
    shown, every = [], 2 * (2 + 2 * len(of_each()))
    progress = Progress(plan, Line(shown.append, clock=lambda: len(shown)))
    assert len(list(planned_runs(plan))) == every
    progress.begin("x: MedMerge (best), seed 0")
    assert shown == [f"0 of {every} runs done, 1 running (x: MedMerge (best), seed 0), {every - 1} left"]
    keep(plan, "MedMerge (best)", 100)
    progress.end()
    assert progress.seconds_left() == 100 * (every - 1)  # nothing else is known yet
    keep(plan, "uniform average", 2)
    assert progress.text().startswith(f"2 of {every} runs done, {every - 2} left, about ")
    assert progress.seconds_left() == pytest.approx(100 + 2 + 51 * (every - 4))
    keep(plan, "MedMerge (best)", 100, seed=1)
    keep(plan, "uniform average", 4, seed=1)
    progress.text()
    assert progress.seconds_left() == pytest.approx(51.5 * (every - 4))


def test_workers_share_what_is_left_and_a_log_file_gets_a_line_a_look_that_found_something(plan, caplog):
    progress = Progress(plan, Line(), workers=2)
    with caplog.at_level(logging.WARNING):
        for kept in ("uniform average", None, None, "MedMerge (best)"):
            if kept:
                keep(plan, kept, 10)
            progress.look(running=2)
    every = len(progress.runs)
    told = [record.getMessage() for record in caplog.records]
    assert [text.split(",")[0] for text in told] == [f"{done} of {every} runs done" for done in (1, 2)]
    assert told[1].split(", ")[1:3] == ["2 running", f"{every - 4} left"]
    assert progress.seconds_left() == 10 * (every - 2) / 2
