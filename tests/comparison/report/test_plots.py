import dataclasses

from medmerge_hf.comparison.report.plots import plot_depth


def test_shares_are_drawn_of_seeds_with_other_anchors(rows, row):
    other = row("x <- a + b", "MedMerge (best)", 3, 0.5)
    other = dataclasses.replace(other, notes={"depth": {"stem": {"c": 1.0, "a": 0.0}, "body": {"c": 0.7, "a": 0.3}}})
    drawn = plot_depth([*rows, other], "x <- a + b", "MedMerge (best)")
    assert "b: stem 0.1, body -0.2" in drawn.alt
    assert "a: stem 0, body 0.3" in drawn.alt
