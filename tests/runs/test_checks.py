import enum
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmerge_hf.errors import SettingsError
from medmerge_hf.runs.checks import Problems, Rule, check_names, check_values
from medmerge_hf.runs.options import Range


class Colour(enum.Enum):
    RED = "red"
    NO = "no"


@pytest.mark.parametrize(
    ("hint", "value", "found"),
    [
        (int, "7", 7),
        (float, "1e-3", 1e-3),
        (float, 2, 2.0),
        (bool, "false", False),
        (bool, "True", True),
        (bool, 1, True),
        (str | None, "x", "x"),
        (list[str], "x", ["x"]),
        (list[float], ("1", 2), [1.0, 2.0]),
        (None | str | list[str], ["a", "b"], ["a", "b"]),
        (dict | str, '{"a": 1}', {"a": 1}),
        (dict | str, "file.json", "file.json"),
        (Colour | str, "red", "red"),
        (Colour | str, False, "no"),  # what YAML reads of the word `no`
        (str | None | Literal[False], False, False),
        (list[Any], [{"id": 1}, "a"], [{"id": 1}, "a"]),
    ],
)
def test_values_are_brought_to_their_type(hint, value, found):
    converted = Rule(hint).converted(value)
    assert converted == found
    assert type(converted) is type(found)


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (int, 1.0, "a whole number"),
        (int, True, "a whole number"),
        (int, "1e3", "a whole number"),
        (int, "9" * 5000, "a whole number"),
        (float, float("nan"), "a number"),
        (float, "inf", "a number"),
        (float, 10**400, "a number"),
        (bool, "maybe", "true or false"),
        (bool, 2, "true or false"),
        (str, 2019, "text (a number in quotes)"),
        (str, None, "text (a number in quotes)"),
        (dict, "[]", "a mapping"),
        (dict, "{" * 10**5, "a mapping"),
        (Colour | str, "blue", "one of red, no"),
        (list[int], ["1", "x"], "a list of whole numbers"),
    ],
)
def test_values_of_another_type_are_refused(hint, value, expected):
    with pytest.raises(ValueError, match=r"^$"):
        Rule(hint).converted(value)
    assert Rule(hint).expected == expected


def test_ranges_words_and_counts_hold_for_each_value_of_a_list():
    rule = Rule(list[float], Range(0, 1), count=2)
    for wrong in ([0.5], [0.5, 2], [0.5, float("nan")], 0.5):
        with pytest.raises(ValueError, match=r"^$"):
            rule.converted(wrong)
    assert Rule(str | list[str], ["a", "b"]).expected == "one of a, b"
    with pytest.raises(ValueError, match=r"^$"):
        Rule(str | list[str], ["a", "b"]).converted(["a", "c"])


def test_all_problems_stand_in_one_error():
    problems, rules = Problems(), {"size": Rule(int, Range(1)), "mode": Rule(str, ("fast", "slow")), "on": Rule(bool)}
    given = {"size": 0, "mode": "fats", "on": "true", "other": 3}
    assert check_values(given, rules, problems, "run.") == {"on": True}
    check_names(given, rules, problems)
    with pytest.raises(SettingsError) as caught:
        problems.raise_all()
    assert str(caught.value).splitlines() == [
        "3 options are wrong:",
        "- run.size=0: expected a whole number at least 1.",
        "- run.mode='fats': expected one of fast, slow; did you mean fast?",
        "- other: there is no such option.",
    ]


def test_no_value_means_the_default():
    problems = Problems()
    assert check_values({"size": None}, {"size": Rule(int)}, problems) == {}
    problems.raise_all()


def test_names_are_looked_for_where_they_stand_and_elsewhere():
    problems, known = Problems(), ["image_size", "merge.learning_rate", "finetune.learning_rate"]
    check_names(["learning_rate", "imge_size", "image_size"], known, problems)
    check_names(["image_size", "lerning_rate"], known, problems, "merge.")
    assert problems == [
        "learning_rate: there is no such option; did you mean merge.learning_rate or finetune.learning_rate?",
        "imge_size: there is no such option; did you mean image_size?",
        "merge.image_size: there is no such option; did you mean image_size?",
        "merge.lerning_rate: there is no such option; did you mean merge.learning_rate?",
    ]


def test_tokens_are_never_shown():
    problems = Problems()
    check_values({"hub_token": 12345}, {"hub_token": Rule(str)}, problems)
    assert "12345" not in problems[0]


@given(st.sampled_from([int, float, bool, str, dict, list[int], Colour | str, str | list[str]]), st.from_type(object))
def test_any_value_is_converted_or_refused(hint, value):
    problems = Problems()
    found = check_values({"x": value}, {"x": Rule(hint, None)}, problems)
    assert (value is None) or (len(found) + len(problems) == 1)
