from pathlib import Path

import pytest

from medmerge_hf.comparison import methods
from medmerge_hf.comparison.registry import METHODS, check_needs, method, of_all, of_each
from medmerge_hf.errors import SettingsError


@pytest.fixture
def registered(monkeypatch):
    """The methods, those that a test adds are forgotten."""
    known = dict(METHODS)
    yield METHODS
    METHODS.clear()
    METHODS.update(known)


def test_every_file_in_the_folder_of_methods_is_found_without_being_named():
    files = {file.stem for file in Path(methods.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == {found.run.__module__.rpartition(".")[2] for found in METHODS.values()}
    assert {found.name for found in of_each()} == {"fine-tuned", "LP-FT", "LP-FT re-estimated", "WiSE-FT", "ranking"}
    assert len(of_all()) == len(METHODS) - 5


def test_a_name_is_given_once(registered):
    with pytest.raises(SettingsError, match=r"'ensemble'.*averaging\.ensemble and .*other"):

        @method("ensemble")
        def other(job):
            return job

    assert registered["ensemble"].run.__name__ == "ensemble"


def test_what_a_method_of_one_source_needs_is_one_too(registered):
    method("of a soup", each=True, needs=("greedy soup",))(lambda job: job)
    with pytest.raises(SettingsError, match="'of a soup' needs 'greedy soup', which is no method of a single source"):
        check_needs()
