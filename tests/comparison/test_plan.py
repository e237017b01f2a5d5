import pytest
import yaml

from medmerge_hf.comparison.compare import make_plan
from medmerge_hf.comparison.plan import settings_of
from medmerge_hf.errors import SettingsError
from medmerge_hf.runs.config import read_options


def test_sources_are_shared_by_merges_and_targets_may_be_left_out(config, vessels):
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


def test_the_best_form_and_its_controls_take_the_options_of_best(config):
    plan = make_plan(read_options([str(config)]))
    (setting,) = plan.settings
    taken = {name: plan.key(setting, name, 0)["options"].get("init") for name in setting.methods}
    own = {"MedMerge (best)", "best without kernel weights", "best with noise for sources"}
    own |= {"MedMerge distilled", "distilled with noise for sources"}
    assert {name for name, init in taken.items() if init == 0.1} == own


def test_all_methods_are_run_where_a_config_names_none(config):
    options = read_options([str(config)])
    del options["compare"]["methods"]
    assert {"aligned average", "MedMerge (paper)"} < set(settings_of(options)[0].methods)
    assert "fine-tuned" not in settings_of(options)[0].methods


def test_a_config_may_name_the_ways_of_one_source(config):
    options = read_options([str(config)])
    options["compare"]["methods"] = ["distilled", "ranking", "fine-tuned"]
    (setting,) = settings_of(options)
    assert (setting.methods, set(setting.ways)) == (("distilled",), {"fine-tuned", "ranking"})


def test_unknown_methods_are_refused(config):
    options = read_options([str(config)])
    options["compare"]["methods"] = ["magic"]
    with pytest.raises(SettingsError, match="magic"):
        make_plan(options)
