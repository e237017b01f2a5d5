import pytest

from medmerge_hf.comparison.report.rows import Promise
from medmerge_hf.comparison.report.tables import (
    conditions_table,
    cost_table,
    figures_table,
    gains,
    overall_table,
    ranking_table,
    setting_table,
    settings_in,
    summary_table,
)


def test_gains_are_paired_by_setting_and_seed(rows):
    assert gains(rows, "MedMerge (best)", setting="x <- a + b").mean == pytest.approx(0.1)
    overall = gains(rows[::-1], "MedMerge (best)")
    assert overall.mean == pytest.approx(0.04)
    assert overall.record == "3/0/3"
    assert gains(rows, "unheard of") is None


def test_tables_say_what_the_rows_do(rows):
    header, lines = overall_table(rows)
    assert len(header) == len(lines[0])
    assert [line[0] for line in lines] == ["MedMerge (best)"]
    assert "+0.040" in lines[-1][1]
    header, lines = figures_table(rows)
    assert header == ["method", "macro F1", "ECE"]
    assert [cell[:6] for cell in lines[0][1:]] == ["+0.040", "+0.000"]
    assert [line[3][:6] for line in summary_table(rows, "MedMerge (best)")[1]] == ["+0.100", "-0.020", "+0.040"]
    beside = summary_table(rows, "MedMerge (best)", reference="a, fine-tuned")
    assert beside[0][1] == "a, fine-tuned"
    assert beside[1][0][3].startswith("+0.100")
    assert [line[0] for line in setting_table(rows, "x <- a + b")[1]][-1] == "MedMerge (best)"


def test_costs_are_told_where_they_were_counted(rows):
    assert cost_table(rows)[1] == []
    for number, found in enumerate(rows):
        if found.method == "MedMerge (best)":
            found.notes.update(steps=10 + number % 2, seconds=2.0)
    assert cost_table(rows)[1] == [["MedMerge (best)", "11", "2.000 ± 0.000"]]


def test_a_gain_stands_beside_what_might_explain_it(rows, row):
    rows += [row(setting, "b, fine-tuned", seed, 0.4) for setting in settings_in(rows) for seed in range(3)]
    header, lines = conditions_table(rows, "MedMerge (best)")
    assert header[2] == "sources apart"
    assert lines[0][1:3] == ["0.100 ± 0.000", "0.110 ± 0.010"]
    assert lines[-1][4] == "-"  # the same everywhere
    assert conditions_table(rows, "unheard of")[1] == []


def test_a_ranking_is_judged_by_what_came_of_it():
    promised = [
        Promise("x", name, seed, score if seed else -score, score + 0.1)
        for seed in range(2)
        for name, score in (("a", 0.1), ("b", 0.2), ("c", 0.3))
    ]
    last = ranking_table(promised)[1][-1]
    assert last[:3] == ["all", "Spearman's correlation with what it reached", "0.000 ± 1.414"]
