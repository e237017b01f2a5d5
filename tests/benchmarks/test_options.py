import json

import options as benchmark_options
import pytest
from options import OPTIONS, PLAIN, main

from medmerge_hf.errors import SettingsError


@pytest.fixture
def ran(monkeypatch, tmp_path):
    """What would have been run."""
    found = []

    def run_one(option, seed):
        found.append((option, seed))
        return {"merged": 0.5, "finetuned": 0.5 + seed / 100}

    monkeypatch.setattr(benchmark_options, "run_one", run_one)
    monkeypatch.setattr(benchmark_options, "RECORD", tmp_path / "options.json")
    monkeypatch.setattr(benchmark_options, "REPORT", tmp_path / "OPTIONS.md")
    return found


def test_one_seed_of_two_digits_and_one_name_are_one(ran, tmp_path):
    main(["--seeds", "12", "--options", "kernel_l2 10"])
    assert ran == [(OPTIONS[PLAIN], 12), (OPTIONS["kernel_l2 10"], 12)]
    assert [row["seed"] for row in json.loads((tmp_path / "options.json").read_text())] == [12, 12]
    assert "| kernel_l2 10 " in (tmp_path / "OPTIONS.md").read_text()
    main(["--seeds", "12", "--options", "kernel_l2 10"])
    assert len(ran) == 2


def test_an_unknown_option_is_refused_by_name(ran):
    with pytest.raises(SettingsError, match=r"'magic'.*kernel_l2 10"):
        main(["--options", "magic"])
    assert ran == []
