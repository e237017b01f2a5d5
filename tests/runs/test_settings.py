import contextlib
import dataclasses
import errno
import os
import tempfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medmerge_hf.errors import SettingsError
from medmerge_hf.runs.options import SECTIONS
from medmerge_hf.runs.settings import make_settings
from medmerge_hf.runs.stage_arguments import NO_USE, stage_rules


@pytest.fixture
def options(tmp_path):
    return {"sources": ["a", "b"], "data": "images", "output_dir": str(tmp_path / "out")}


def problem(options, **others):
    with pytest.raises(SettingsError) as caught:
        make_settings({**options, **others})
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("image_size", 0, "a whole number at least 8"),
        ("crop_scale", [0.5], "2 numbers, each above 0 and at most 1"),
        ("crop_scale", [2, 3], "2 numbers, each above 0 and at most 1"),
        ("crop_scale", [0.8, 0.5], "the smaller share first"),
        ("dicom_window", [40.0, 0.0], "a centre and a width above 0"),
        ("color_jitter", -1, "a number at least 0"),
        ("resamples", 0, "a whole number at least 1"),
        ("patience", -1, "a whole number at least 1"),
        ("validation_fraction", 2, "a number at least 0 and below 1"),
        ("label_fraction", 0, "a number above 0 and at most 1"),
        ("label_column", "", "the name of a column"),
        ("seed", 2**32, "a whole number at least 0"),
        ("granularity", "filtr", "one of model, .*did you mean filter?"),
        ("architecture", "resnet5O", "timm's name of a network .*did you mean resnet50?"),
        ("architecture", "resnet50.nobody", "timm's name of a network .*nobody"),
        ("architecture", "", "timm's name of a network"),
        ("export_dtype", "float8", "one of float32, bfloat16, float16"),
        ("report_to", "tensorbord", "one of none, .*did you mean tensorboard?"),
        ("multi_label", "maybe", "true or false"),
        ("data", 2019, "in quotes"),
        ("keep_best", 1, "a whole number at least 2"),
        ("keep_best", 3, "at most the 2 sources that there are"),
        ("sources", ["a"], "an anchor and at least one other source"),
        ("merge", 3, "a mapping of TrainingArguments"),
    ],
)
def test_an_option_out_of_range_is_named_with_its_value_and_what_is_allowed(name, value, expected, options):
    message = problem(options, **{name: value})
    assert message.startswith(f"{name}={value!r}: expected ")
    with pytest.raises(SettingsError, match=expected):
        make_settings({**options, name: value})


def test_everything_that_is_wrong_is_said_at_once(options):
    wrong = {"image_size": 0, "imagesize": 64, "learning_rate": 1e-3, "init": [0.1, 0.2], "data": None}
    message = problem(options, **wrong, merge={"max_steps": 0}, finetune={"optim": "adamw", "hub_tokn": "hf_secret"})
    for text in (
        "8 options are wrong:",
        "image_size=0: ",
        "imagesize: there is no such option; did you mean image_size?",
        "learning_rate: there is no such option; did you mean merge.learning_rate or finetune.learning_rate?",
        "init=[0.1, 0.2] names 2 weights",
        "--data is missing",
        "merge.max_steps=0: ",
        "finetune.optim='adamw': ",
        "finetune.hub_tokn: there is no such option; did you mean finetune.hub_token?",
    ):
        assert text in message
    assert "hf_secret" not in message


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("", "id must be text"),
        (3, "A source is a string"),
        ("{'id'", "Expecting property name"),
        ({"id": "b", "inptu": "unit"}, "unknown inptu"),
        ({"id": "b", "input": "imagnet"}, "is not one of imagenet"),
        ({"id": "b", "architecture": 50}, "architecture must be text"),
        ({"id": "b", "variant": {"padding": "valid"}}, "padding"),
    ],
)
def test_a_source_that_is_none_is_named(source, why, options):
    message = problem(options, sources=["a", source])
    assert message.startswith("sources[1]=")
    assert why in message


def test_sources_may_be_json_and_one_is_enough_where_nothing_is_merged(options):
    settings = make_settings({**options, "sources": ["a", '{"id": "b", "input": "unit"}']})
    assert settings.source.sources == settings.options["sources"] == ["a", {"id": "b", "input": "unit"}]
    assert make_settings({**options, "sources": "a", "keep_best": 2}, fewest_sources=1).source.sources == ["a"]


def test_a_convex_merge_needs_a_start_inside(options):
    assert "Take init=0.5" in problem(options, constraint="convex")
    assert make_settings({**options, "constraint": "convex", "init": 0.5}).source.init == [0.5]


def test_an_output_dir_that_cannot_be_written_is_named(options, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    assert "file is no folder" in problem(options, output_dir=str(tmp_path / "file"))
    assert "file is no folder" in problem(options, output_dir=str(tmp_path / "file" / "below"))
    assert "null" in problem(options, output_dir="a\0b")
    assert "too long" in problem(options, output_dir="a" * 300)

    def refuse(**_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert "expected a folder to write into ([Errno 30] Read-only file system)" in problem(options)


def test_home_is_one_place_for_the_run_and_its_stages(options, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = make_settings({**options, "output_dir": "~/run"})
    assert (settings.run.output_dir, settings.merge.output_dir) == (f"{tmp_path}/run", f"{tmp_path}/run/merge")
    assert settings.below("alone/0").finetune.output_dir == f"{tmp_path}/run/alone/0/finetune"


def test_an_upload_needs_a_name_and_a_token(options, monkeypatch):
    pushing = {**options, "push_to_hub": True}
    assert make_settings({**pushing, "hub_model_id": "me/merged"}).run.hub_model_id == "me/merged"
    assert problem(pushing, hub_model_id="a/b/c").startswith("hub_model_id='a/b/c': expected user/name")
    monkeypatch.setattr("medmerge_hf.runs.settings.get_token", lambda: None)
    assert "a token of the Hub" in problem(pushing)


def test_early_stopping_needs_evaluations(options):
    never = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    assert (
        problem(options, patience=2, merge=never) == "patience=2: counts evaluations, but merge.eval_strategy is no."
    )


def test_a_config_of_a_comparison_says_what_it_is_for(options):
    assert "compare: a section of `medmerge compare`" in problem(options, compare={"merges": {}})


NAMES = [field.name for section in SECTIONS for field in dataclasses.fields(section)]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["no", "1e-3", "a", "{}"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)
RISKY = ("deepspeed", "fsdp_config")  # files of these would be read
STAGE = st.dictionaries(st.sampled_from([*(n for n in stage_rules() if n not in RISKY), *NO_USE, "other"]), VALUES)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3), STAGE | VALUES, STAGE)
def test_any_options_are_settings_or_a_settings_error(options, others, merge, finetune):
    with contextlib.suppress(SettingsError):
        made = make_settings({**options, **others, "merge": merge, "finetune": finetune})
        assert made.run.output_dir
        assert made.merge.learning_rate <= 100
