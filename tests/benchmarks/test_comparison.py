"""The kept runs of benchmarks/comparison are read by what makes tables now."""

from pathlib import Path

import pandas as pd
import pytest

from medmerge_hf.comparison.report.rows import Row
from medmerge_hf.comparison.report.tables import overall_table, setting_table, settings_in
from medmerge_hf.evaluation.metrics import METRICS


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def rows():
    table = pd.read_csv(BENCHMARKS / "comparison" / "comparison.csv").to_dict("records")
    assert set(table[0]) == {"setting", "method", "seed", *METRICS}
    scores = [{name: line[name] for name in METRICS if line[name] == line[name]} for line in table]
    return [Row(line["setting"], line["method"], line["seed"], s, s) for line, s in zip(table, scores, strict=True)]


def cells_of(text):
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if line[:1] == "|"]


def test_the_table_of_all_settings_is_that_of_the_kept_runs(rows):
    printed = (BENCHMARKS / "COMPARISON.md").read_text().partition("## All settings\n")[2].partition("##")[0]
    header, _, *lines = cells_of(printed)
    assert overall_table(rows) == (header, lines)


def test_every_setting_has_its_table(rows):
    assert len(settings_in(rows)) == 15
    for setting in settings_in(rows):
        header, lines = setting_table(rows, setting)
        assert len(lines) > 15
        assert {len(line) for line in lines} == {len(header)}
