import dataclasses

from medmerge_hf.comparison.report.plots import plot_depth


def test_shares_are_drawn_of_seeds_with_other_anchors(rows, row, tmp_path):
    other = row("x <- a + b", "MedMerge (best)", 3, 0.5)
    other = dataclasses.replace(other, notes={"depth": {"stem": {"c": 1.0, "a": 0.0}, "body": {"c": 0.7, "a": 0.3}}})
    plot_depth([*rows, other], "x <- a + b", "MedMerge (best)", tmp_path / "depth.png")
    assert (tmp_path / "depth.png").stat().st_size > 1000
