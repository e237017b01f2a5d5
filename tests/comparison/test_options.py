import pytest

from medmerge_hf.comparison.compare import make_plan, take_options
from medmerge_hf.errors import SettingsError


@pytest.fixture
def options(tmp_path):
    return {"sources": ["a", "b"], "data": "images", "output_dir": str(tmp_path)}


def problem(options, **others):
    with pytest.raises(SettingsError) as caught:
        make_plan({**options, **others})
    return str(caught.value)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (3, "compare=3: expected a mapping."),
        ({"target": {}}, "compare.target: there is no such option; did you mean compare.targets?"),
        ({"targets": ["a"]}, "compare.targets=['a']: expected a mapping."),
        ({"targets": {"a": None}}, "compare.targets.a=None: expected a name in quotes, and a mapping of options."),
        ({"merges": {2024: {}}}, "compare.merges.2024={}: expected a name in quotes, and a mapping of options."),
        ({"merges": {"a": {"skip": {}}}}, "compare.merges.a.skip={}: expected a list of texts."),
        ({"methods": ["MedMerge (bst)"]}, "did you mean MedMerge (best)?"),
        ({"label_fractions": [0.5, 2]}, "compare.label_fractions=[0.5, 2]: expected a list of numbers, each above 0"),
        ({"ordered": 2}, "compare.ordered=2: expected a list of texts or true or false."),
        ({"best": 1}, "compare.best=1: expected a mapping."),
        ({"best": {"algin": "weights"}}, "algin: there is no such option; did you mean align?"),
        ({"best": {"merge": {"max_steps": 3}}}, "max_steps: counts in both stages or in neither"),
        ({"targets": {"a": {"image_size": 0}, "b": {"image_size": 0}}}, "image_size=0: expected a whole number"),
    ],
)
def test_what_a_section_cannot_hold_is_named_before_anything_runs(section, said, options):
    message = problem(options, compare=section)
    assert said in message
    assert message.count("expected") <= 1


@pytest.mark.parametrize(("name", "value"), [("seeds", ["0", "x"]), ("seeds", -1), ("trials", 0), ("workers", 1.5)])
def test_its_own_options_are_checked(name, value, options):
    assert problem(options, **{name: value}).startswith(f"{name}={value!r}: expected ")


def test_its_own_options_are_taken_out_of_those_of_its_runs(options, monkeypatch):
    given = {**options, "seeds": ["1", "2"], "workers": "2"}
    own = take_options(given)
    assert (own.seeds, own.trials, own.workers) == ([1, 2], 1, 2)
    assert given == options
    monkeypatch.setattr("medmerge_hf.comparison.compare.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"workers=2: expected 1, since ray is not installed: pip install"):
        take_options({"workers": 2})
