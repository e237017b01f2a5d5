import dataclasses

import numpy as np
import pytest

from medmerge_hf.comparison.report.page import write_report
from medmerge_hf.comparison.report.plots import plot_depth
from medmerge_hf.comparison.report.rows import BEST_SOURCE, USUAL_SOURCE, Promise, Row
from medmerge_hf.comparison.report.tables import (
    conditions_table,
    figures_table,
    gains,
    overall_table,
    ranking_table,
    setting_table,
    settings_in,
    summary_table,
)


def row(setting, method, seed, score, fraction=1.0):
    random = np.random.default_rng(seed)
    labels = np.arange(12) % 2
    scores = {"macro_f1": score, "ece": 0.1}
    notes = {"depth": {"stem": {"a": 0.9, "b": 0.1}, "body": {"a": 1.2, "b": -0.2}}, "merged": {"validation": 0.3}}
    probabilities = random.dirichlet([1, 1], 12)
    return Row(setting, method, seed, scores, scores, notes, probabilities, labels, setting, fraction, ("ill", "well"))


@pytest.fixture
def rows():
    found = []
    for setting, gain in (("x <- a + b", 0.1), ("y <- a + b", -0.02)):
        for seed in range(3):
            for method in (BEST_SOURCE, USUAL_SOURCE, "a, fine-tuned"):
                found.append(row(setting, method, seed, 0.5 + 0.01 * seed))
            found.append(row(setting, "MedMerge (best)", seed, 0.5 + 0.01 * seed + gain))
    return found


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


def test_a_gain_stands_beside_what_might_explain_it(rows):
    rows += [row(setting, "b, fine-tuned", seed, 0.4) for setting in settings_in(rows) for seed in range(3)]
    header, lines = conditions_table(rows, "MedMerge (best)")
    assert header[2] == "sources apart"
    assert lines[0][1:3] == ["0.100 ± 0.000", "0.110 ± 0.010"]
    assert lines[-1][4] == "-"  # the same everywhere
    assert conditions_table(rows, "unheard of")[1] == []


def test_shares_are_drawn_of_seeds_with_other_anchors(rows, tmp_path):
    other = row("x <- a + b", "MedMerge (best)", 3, 0.5)
    other = dataclasses.replace(other, notes={"depth": {"stem": {"c": 1.0, "a": 0.0}, "body": {"c": 0.7, "a": 0.3}}})
    plot_depth([*rows, other], "x <- a + b", "MedMerge (best)", tmp_path / "depth.png")
    assert (tmp_path / "depth.png").stat().st_size > 1000


def test_a_ranking_is_judged_by_what_came_of_it():
    promised = [
        Promise("x", name, seed, score if seed else -score, score + 0.1)
        for seed in range(2)
        for name, score in (("a", 0.1), ("b", 0.2), ("c", 0.3))
    ]
    last = ranking_table(promised)[1][-1]
    assert last[:3] == ["all", "Spearman's correlation with what it reached", "0.000 ± 1.414"]


def test_one_share_of_labels_a_task_is_no_curve(rows, tmp_path):
    few = [dataclasses.replace(r, fraction=0.1 if r.setting.startswith("x") else 0.2) for r in rows]
    write_report(few, tmp_path)
    assert not (tmp_path / "pictures/label_efficiency.png").exists()


def test_a_report_holds_every_picture(rows, tmp_path):
    rows += [row("x <- a + b", method, 0, 0.4, 0.1) for method in (BEST_SOURCE, "MedMerge (best)")]
    text = write_report(rows, tmp_path, alike={"x": (["a", "b"], np.eye(2))})
    assert "## All settings" in text
    assert {file.name for file in tmp_path.iterdir()} >= {"comparison.md", "comparison.csv", "comparison.tex"}
    pictures = {file.stem for file in (tmp_path / "pictures").iterdir()}
    assert {"label_efficiency", "confusion_0", "calibration_1", "depth_0", "forest_MedMerge__best"} <= pictures
    assert (tmp_path / "comparison.html").read_text().count("data:image/png;base64") == len(pictures)
