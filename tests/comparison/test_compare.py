import pytest

from medmerge_hf.comparison.compare import main, make_plan
from medmerge_hf.comparison.registry import METHODS
from medmerge_hf.comparison.report.rows import BEST_SOURCE
from medmerge_hf.errors import SettingsError
from medmerge_hf.runs.config import read_options


def test_one_command_gives_one_table_and_one_page(finished, finished_plan):
    config, printed = finished
    folder = config.parent / "out"
    methods = [name for name in finished_plan.settings[0].methods if METHODS[name].predicts]
    assert all(method in printed for method in [*methods, BEST_SOURCE, "linear probe"])
    assert (folder / "comparison.md").read_text().strip() in printed
    page = (folder / "comparison.html").read_text()
    assert page.count("<img") >= 5
    assert "CKA" in page
    assert r"\toprule" in (folder / "comparison.tex").read_text()


def test_methods_are_set_against_their_controls(finished):
    controls = {method.name: method for method in METHODS.values() if method.control}
    assert {name for name, method in controls.items() if method.of == "MedMerge (best)"} == {
        "best without kernel weights",
        "best with noise for sources",
    }
    assert (controls["self-trained"].of, controls["ensemble of seeds"].of) == ("distilled", "ensemble")
    config, printed = finished
    compared = [controls[name] for name in read_options([str(config)])["compare"]["methods"] if name in controls]
    assert len(compared) > 4
    for control in compared:
        assert f"## {control.of} over {control.name}: {control.control}\n" in printed


def test_no_run_is_repeated(finished):
    config, _ = finished
    stamps = {file: file.stat().st_mtime_ns for file in (config.parent / "out" / "runs").glob("*/run.json")}
    assert len(stamps) == 2 * 5 + 16  # a linear probe and four ways for each source, sixteen methods of both
    main([str(config)])
    assert {file: file.stat().st_mtime_ns for file in stamps} == stamps


def test_steps_count_in_both_stages_or_in_neither(config):
    options = read_options([str(config), "--merge.max_steps", "3"])
    with pytest.raises(SettingsError, match="in both stages or in neither"):
        make_plan(options)
    options["finetune"]["max_steps"] = 5
    assert make_plan(options).settings[0].options["finetune"]["max_steps"] == 5
