import dataclasses

import numpy as np

from medmerge_hf.comparison.report.page import latex_table, write_report
from medmerge_hf.comparison.report.rows import BEST_SOURCE


def test_one_share_of_labels_a_task_is_no_curve(rows, tmp_path):
    few = [dataclasses.replace(r, fraction=0.1 if r.setting.startswith("x") else 0.2) for r in rows]
    write_report(few, tmp_path)
    assert not (tmp_path / "pictures/label_efficiency.png").exists()


def test_a_report_holds_every_picture(rows, row, tmp_path):
    rows += [row("x <- a + b", method, 0, 0.4, 0.1) for method in (BEST_SOURCE, "MedMerge (best)")]
    text = write_report(rows, tmp_path, alike={"x": (["a", "b"], np.eye(2))})
    assert "## All settings" in text
    assert {file.name for file in tmp_path.iterdir()} >= {"comparison.md", "comparison.csv", "comparison.tex"}
    pictures = {file.stem for file in (tmp_path / "pictures").iterdir()}
    assert {"label_efficiency", "confusion_0", "calibration_1", "depth_0", "forest_MedMerge__best"} <= pictures
    assert (tmp_path / "comparison.html").read_text().count("data:image/svg+xml;base64") == len(pictures)


def test_latex_says_what_the_table_does():
    cells = ["fundus_dr <- a & b", "50 % of {x}", "0.4 ± 0.1", "a~b^c\\\\d"]
    lines = latex_table((["sett_ing", "#", "$", ">"], [cells])).splitlines()
    assert lines[:2] == [r"\begin{tabular}{llll}", r"\toprule"]
    assert lines[2] == r"sett\_ing & \# & \$ & $>$ \\"
    assert lines[4].startswith(r"fundus\_dr $<$- a \& b & 50 \% of \{x\} & 0.4 $\pm$ 0.1 & a")
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
