import dataclasses

import pytest

from medmerge_hf.alignment.permutations import ALIGNMENTS
from medmerge_hf.merging.kernel_weights import CONSTRAINTS, GRANULARITIES
from medmerge_hf.runs.options import SECTIONS, Range, SourceOptions
from medmerge_hf.runs.settings import section_rules


FIELDS = [(section, field) for section in SECTIONS for field in dataclasses.fields(section)]


@pytest.mark.parametrize(("section", "field"), FIELDS, ids=lambda value: getattr(value, "name", ""))
def test_every_option_is_explained_and_its_default_is_allowed(section, field):
    default = getattr(section(), field.name)
    assert field.metadata["help"].endswith(".")
    assert default in (None, "", []) or section_rules(section)[field.name].converted(default) == default


def test_words_of_options_are_those_of_the_model():
    words = {field.name: field.metadata["allowed"] for field in dataclasses.fields(SourceOptions)}
    assert words["granularity"] == GRANULARITIES
    assert words["constraint"] == CONSTRAINTS
    assert words["align"] == ALIGNMENTS


@pytest.mark.parametrize(
    ("allowed", "inside", "outside", "text"),
    [
        (Range(1, 5), (1, 5), (0, 6, float("nan")), "at least 1 and at most 5"),
        (Range(0, 1, open_low=True, open_high=True), (0.5,), (0, 1), "above 0 and below 1"),
        (Range(1, also=-1), (-1, 1, 10**9), (0, -2), "at least 1, or -1"),
    ],
)
def test_ranges(allowed, inside, outside, text):
    assert all(value in allowed for value in inside)
    assert not any(value in allowed for value in outside)
    assert repr(allowed) == text
