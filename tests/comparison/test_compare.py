import itertools
import os
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import timm
import yaml
from tiny import network

from medmerge_hf.comparison.averaging import greedy
from medmerge_hf.comparison.compare import main, make_plan
from medmerge_hf.comparison.job import Job, validation_f1, weights_of
from medmerge_hf.comparison.methods import ALL, BEST_FORM, CONTROL, EACH, NOISE
from medmerge_hf.comparison.plan import settings_of
from medmerge_hf.comparison.report.rows import BEST_MERGE, BEST_SOURCE, PROBED_SOURCE, collect, promises
from medmerge_hf.comparison.run_store import Outcome, RunStore
from medmerge_hf.comparison.runner import run_everything
from medmerge_hf.errors import SettingsError
from medmerge_hf.runs.build import load_data
from medmerge_hf.runs.config import read_options
from medmerge_hf.runs.settings import make_settings


STAGE = {"num_train_epochs": 1, "use_cpu": True, "disable_tqdm": True, "save_only_model": True}
METHODS = [
    "uniform average",
    "greedy soup",
    "ensemble",
    "fine-tuned longer",
    "MedMerge (best)",
    "MedMerge of fine-tuned",
    "best without kernel weights",
    "best with noise for sources",
]


def write_config(folder, vessels):
    for seed in range(2):
        timm.models.save_for_hf(network(seed), folder / str(seed), safe_serialization=True)
    options = {
        "sources": [str(folder / "0"), str(folder / "1")],
        "data": str(vessels),
        "image_size": 32,
        "output_dir": str(folder / "out"),
        "merge": STAGE,
        "finetune": {**STAGE, "learning_rate": 1e-3},
        "compare": {"methods": METHODS, "best": {"align": "weights"}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(options, sort_keys=False))
    return folder / "config.yaml"


def train_settings(config, **options):
    """Of one run of a comparison."""
    (setting,) = settings_of(read_options([str(config)]))
    return make_settings({**setting.options, "output_dir": str(config.parent / "run"), **options})


@pytest.fixture
def config(tmp_path, vessels):
    return write_config(tmp_path, vessels)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, vessels):
    """A comparison that was run: its config and what it printed."""
    config = write_config(tmp_path_factory.mktemp("compared"), vessels)
    with redirect_stdout(StringIO()) as printed:
        main([str(config)])
    return config, printed.getvalue()


def test_one_command_gives_one_table_and_one_page(finished):
    config, printed = finished
    folder = config.parent / "out"
    assert all(method in printed for method in [*METHODS, BEST_SOURCE, "linear probe"])
    assert (folder / "comparison.md").read_text().strip() in printed
    page = (folder / "comparison.html").read_text()
    assert page.count("<img") >= 5
    assert "CKA" in page
    assert r"\toprule" in (folder / "comparison.tex").read_text()


def test_no_run_is_repeated(finished, capsys):
    config, _ = finished
    stamps = {file: file.stat().st_mtime_ns for file in (config.parent / "out" / "runs").glob("*/run.json")}
    assert len(stamps) == 2 * (len(EACH) + 1) + len(METHODS)
    main([str(config)])
    assert {file: file.stat().st_mtime_ns for file in stamps} == stamps


def test_the_best_source_and_the_best_form_are_chosen_on_validation(finished):
    plan = make_plan(read_options([str(finished[0])]))
    rows = collect(plan)
    singles = [row for row in rows if row.method.startswith(("0, ", "1, "))]
    best = next(row for row in rows if row.method == BEST_SOURCE)
    assert len(singles) == 2 * len(EACH)
    assert best.validation["macro_f1"] == max(row.validation["macro_f1"] for row in singles)
    chosen = next(row for row in rows if row.method == BEST_MERGE)
    forms = [row for row in rows if row.method in METHODS and row.method.startswith("MedMerge")]
    assert chosen.validation["macro_f1"] == max(row.validation["macro_f1"] for row in forms)
    assert chosen.notes["chosen"] in {row.method for row in forms}
    promised = {promise.source: promise.probe for promise in promises(plan)}
    probed = next(row for row in rows if row.method == PROBED_SOURCE)
    assert probed.notes["chosen"] == f"{max(promised, key=lambda name: promised[name])}, fine-tuned"
    ensemble = next(row for row in rows if row.method == "ensemble")
    tuned = [row.probabilities for row in singles if row.method.endswith(", fine-tuned")]
    assert np.allclose(ensemble.probabilities, np.mean(tuned, axis=0))


def test_the_merge_is_set_against_its_controls(finished):
    _, printed = finished
    assert all(f"## {BEST_FORM} over {control}: " in printed for control in (CONTROL, NOISE))
    rows = {row.method: row for row in collect(make_plan(read_options([str(finished[0])])))}
    merges = [rows[method].probabilities for method in (BEST_FORM, CONTROL, NOISE)]
    assert not any(np.array_equal(one, other) for one, other in itertools.combinations(merges, 2))


def test_a_greedy_soup_that_takes_no_other_in_is_the_best_network_as_it_is(config, monkeypatch):
    settings = train_settings(config)
    target, labels = load_data(settings), {"validation": np.array([0, 1, 2])}
    states = [weights_of(Job(settings, target).single()) for _ in range(2)]
    wrong, right = ({"validation": np.eye(3)[order]} for order in ([1, 2, 0], [0, 1, 2]))
    tuned = [Outcome(p, labels, {"end": state}) for p, state in zip((wrong, right), states, strict=True)]
    job = Job(settings, target, tuned)
    monkeypatch.setattr(Job, "validation_of", lambda *_: 0.5)
    assert greedy(job) is tuned[1]
    assert job.of_state(states[0]).labels.keys() == {"validation", "test"}
    first, again = (job.of_state(states[0]).probabilities["test"] for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_one_stage_has_the_budget_of_both(config):
    for counted, total in ({"num_train_epochs": 2}, 4), ({"max_steps": 3}, 6):
        settings = train_settings(config, merge=STAGE | counted, finetune=STAGE | counted)
        job = Job(settings, load_data(settings))
        args = job.trainer(job.single(), "both").args
        assert {name: getattr(args, name) for name in counted} == dict.fromkeys(counted, total)


def test_steps_count_in_both_stages_or_in_neither(config):
    options = read_options([str(config), "--merge.max_steps", "3"])
    with pytest.raises(SettingsError, match="in both stages or in neither"):
        make_plan(options)
    options["finetune"]["max_steps"] = 5
    assert make_plan(options).settings[0].options["finetune"]["max_steps"] == 5


def test_sources_are_shared_by_merges_and_targets_may_be_left_out(config, tmp_path, vessels):
    options = yaml.safe_load(config.read_text())
    pair = options.pop("sources")
    options["compare"] |= {
        "targets": {
            "a": {"data": options.pop("data")},
            "b": {"data": str(vessels), "ordered": True, "label_fractions": [0.5, 1.0]},
        },
        "merges": {"both": {"sources": pair}, "back": {"sources": pair[::-1], "skip": ["b"]}},
    }
    config.write_text(yaml.safe_dump(options, sort_keys=False))
    plan = make_plan(read_options([str(config)]))
    both, back, half, other = plan.settings
    assert [both.name, back.name] == ["a <- both", "a <- back"]
    assert [half.name, other.name] == ["b <- both, 50% of the labels", "b <- both, 100% of the labels"]
    assert (half.options["label_fraction"], other.task) == (0.5, "b <- both")
    assert plan.key(both, "LP-FT", 0, pair[0]) == plan.key(back, "LP-FT", 0, pair[0])
    assert plan.key(both, "uniform average", 0) != plan.key(back, "uniform average", 0)
    assert other.ordered
    assert list(plan.groups()) == [(0, "a"), (0, "b")]


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
    rows = collect(make_plan(read_options([str(config)])))
    assert {row.method for row in rows} >= set(METHODS)


@pytest.mark.slow
def test_every_method_runs_and_may_try_learning_rates(config):
    arguments = [str(config), "--trials", "2", "--workers", "1"]
    options = read_options(arguments)
    del options["compare"]["methods"]
    options.pop("workers")
    plan = make_plan(options)
    run_everything(plan, workers=1)
    rows = collect(plan)
    assert {row.method for row in rows} >= set(ALL)
    rates = [row.notes["rates"] for row in rows if row.method == "MedMerge (paper)"]
    assert 3e-5 <= rates[0]["finetune"] <= 1e-3


def test_a_run_is_kept_whole_or_not_at_all(tmp_path):
    runs, key = RunStore(tmp_path), {"method": "m", "seed": 0}
    probabilities = np.eye(2)[[0, 1, 1]]
    outcome = Outcome({"validation": probabilities}, {"validation": np.array([0, 1, 0])}, notes={"share": 0.5})
    assert not runs.has(key)
    runs.save(key, outcome, 1.0)
    assert runs.has(key)
    found = runs.load(key)
    assert validation_f1(found) == validation_f1(outcome)
    assert found.notes == {"share": 0.5}
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


def test_unknown_methods_are_refused(config):
    options = read_options([str(config)])
    options["compare"]["methods"] = ["magic"]
    with pytest.raises(SettingsError, match="magic"):
        make_plan(options)
