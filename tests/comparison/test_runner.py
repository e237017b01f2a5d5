import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medmerge_hf.comparison.compare import make_plan
from medmerge_hf.comparison.registry import METHODS, Method
from medmerge_hf.comparison.report.rows import collect
from medmerge_hf.comparison.run_store import Outcome
from medmerge_hf.comparison.runner import Group, run_everything
from medmerge_hf.runs.config import read_options


def test_what_a_method_needs_is_run_before_it_and_handed_to_it(config, monkeypatch):
    ran = []

    def fake(name, needs=()):
        def run(job):
            ran.append((name, list(job.settings.source.sources), sorted(job.earlier)))
            ends = {need: [outcome.notes["of"] for outcome in found] for need, found in job.earlier.items()}
            return Outcome({"validation": np.eye(2)}, {"validation": np.array([0, 1])}, notes={"of": name, **ends})

        return Method(name, run, each=name != "all", needs=needs)

    for name, needs in (("one", ()), ("two", ("one",)), ("all", ("two",))):
        monkeypatch.setitem(METHODS, name, fake(name, needs))
    plan = make_plan(read_options([str(config)]))
    (setting,), sources = plan.settings, [str(config.parent / "0"), str(config.parent / "1")]
    Group(plan, 0, setting.target).run_once(setting, METHODS["all"])
    assert [name for name, *_ in ran] == ["one", "two", "one", "two", "all"]
    assert [taken for _, taken, _ in ran] == [sources[:1], sources[:1], sources[1:], sources[1:], sources]
    assert plan.runs.load(plan.key(setting, "all", 0)).notes["two"] == ["two", "two"]
    assert plan.runs.load(plan.key(setting, "two", 0, sources[1])).notes["one"] == ["one"]


@pytest.mark.slow
def test_two_processes_give_one_comparison(config):
    recipes = Path(__file__).parents[2] / "recipes"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    command = [
        *launch,
        str(recipes / "accelerate" / "cpu_two_processes.yaml"),
        str(recipes / "compare.py"),
        str(config),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("## All settings\n") == 1
    plan = make_plan(read_options([str(config)]))
    assert {row.method for row in collect(plan)} >= set(plan.settings[0].methods)


@pytest.mark.slow
def test_every_method_runs_and_may_try_learning_rates(config):
    options = read_options([str(config), "--trials", "2"])
    del options["compare"]["methods"]
    plan = make_plan(options)
    run_everything(plan, workers=1)
    rows = collect(plan)
    assert {row.method for row in rows} >= set(plan.settings[0].methods)
    rates = [row.notes["rates"] for row in rows if row.method == "MedMerge (paper)"]
    assert 3e-5 <= rates[0]["finetune"] <= 1e-3
