"""The kept runs of the comparisons are read by what makes tables now."""

from pathlib import Path

import pandas as pd
import pytest

from medmerge_hf.comparison.report.rows import Row
from medmerge_hf.comparison.report.tables import overall_table, setting_table, settings_in
from medmerge_hf.evaluation.metrics import METRICS


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module", params=["comparison", "history"])
def kept(request):
    """A page, and the rows that lie in a folder beside it."""
    table = pd.read_csv(BENCHMARKS / request.param / "comparison.csv").to_dict("records")
    assert (
        {"setting", "method", "seed", "macro_f1", "auroc"} <= set(table[0]) <= {"setting", "method", "seed", *METRICS}
    )
    known = [name for name in METRICS if name in table[0]]
    scores = [{name: line[name] for name in known if line[name] == line[name]} for line in table]
    rows = [Row(line["setting"], line["method"], line["seed"], s, s) for line, s in zip(table, scores, strict=True)]
    return (BENCHMARKS / f"{request.param.upper()}.md").read_text(), rows


def cells_of(text):
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if line[:1] == "|"]


def test_the_table_of_all_settings_is_that_of_the_kept_runs(kept):
    page, rows = kept
    header, _, *lines = cells_of(page.partition("## All settings\n")[2].partition("##")[0])
    assert overall_table(rows) == (header, lines)


def test_every_setting_has_its_table(kept):
    page, rows = kept
    for setting in settings_in(rows):
        header, lines = setting_table(rows, setting)
        assert f"## {setting}\n" in page
        assert {len(line) for line in lines} == {len(header)}
        assert len(lines) > 5
