"""The report of a comparison: rows of runs in, tables and pictures out."""

import math
from collections.abc import Sequence

from ...evaluation.bootstrap import Gain, paired_gain
from ...evaluation.metrics import METRICS
from ...evaluation.tables import mean_and_spread
from ..registry import OURS
from .rows import BEST_SOURCE, USUAL_SOURCE, Promise, Row


def ranking_table(promised: Sequence[Promise]) -> tuple[list[str], list[list[str]]]:
    """A line a target and source: its linear probe and what it reached alone; last, how well the probe ranked them.

    That is Spearman's rank correlation over the sources of a target and seed, averaged.
    """
    header = ["target", "source", "linear probe, macro F1", "macro F1 alone"]
    lines = []
    for target, source in dict.fromkeys((p.target, p.source) for p in promised):
        own = [p for p in promised if (p.target, p.source) == (target, source)]
        columns = zip(*((p.probe, p.reached) for p in own), strict=True)
        lines.append([target, source, *map(mean_and_spread, columns)])
    correlations = []
    for target, seed in dict.fromkeys((p.target, p.seed) for p in promised):
        own = [p for p in promised if (p.target, p.seed) == (target, seed)]
        if len(own) > 1:
            correlations.append(rank_correlation([p.probe for p in own], [p.reached for p in own]))
    if found := [value for value in correlations if math.isfinite(value)]:
        lines.append(["all", "Spearman's correlation with what it reached", mean_and_spread(found), "1"])
    return header, lines


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's; NaN where either is the same everywhere.

    Example:
        >>> rank_correlation([0.1, 0.5, 0.2], [1, 3, 2]), rank_correlation([1, 1], [1, 2])
        (1.0, nan)
    """
    from scipy.stats import spearmanr

    varied = len(set(one)) > 1 and len(set(other)) > 1
    return float(spearmanr(one, other).statistic) if varied else math.nan


def gains(
    rows: Sequence[Row],
    method: str,
    figure: str = "macro_f1",
    reference: str = BEST_SOURCE,
    setting: str | None = None,
) -> Gain | None:
    """Paired gain of a method over a reference.

    Args:
        rows: of a comparison.
        method: whose.
        figure: of the scores.
        reference: the other method.
        setting: one alone; by default all, each counting the same.

    Returns:
        The gain; `None` where the two share no run.
    """
    chosen = [row for row in rows if setting in (None, row.setting)]
    theirs = {(row.setting, row.seed): row.scores[figure] for row in chosen if row.method == reference}
    pairs = [
        (row.scores[figure], theirs[row.setting, row.seed], row.setting)
        for row in chosen
        if row.method == method and (row.setting, row.seed) in theirs
    ]
    if not pairs:
        return None
    ours, other, settings = zip(*pairs, strict=True)
    return paired_gain(ours, other, settings)


def methods_of(rows: Sequence[Row]) -> list[str]:
    """Methods in the order of the rows."""
    return list(dict.fromkeys(row.method for row in rows))


def merges_of(rows: Sequence[Row]) -> list[str]:
    """The forms of MedMerge among the methods."""
    return [method for method in methods_of(rows) if method.startswith(OURS)]


def shared_methods(rows: Sequence[Row]) -> list[str]:
    """Methods that every setting may have: those of all sources, not of one source alone."""
    return [method for method in methods_of(rows) if ", " not in method and method != BEST_SOURCE]


def settings_in(rows: Sequence[Row]) -> list[str]:
    """Settings in the order of the rows."""
    return list(dict.fromkeys(row.setting for row in rows))


def overall_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """A line a method that all settings may have: paired gain over the best single source."""
    header = ["method", "gain over the best single source", "wins/ties/losses", "over the usual training", "settings"]
    lines = []
    for method in shared_methods(rows):
        gain, usual = gains(rows, method), gains(rows, method, reference=USUAL_SOURCE)
        if gain is not None:
            own = [row for row in rows if row.method == method]
            lines.append([method, str(gain), gain.record, str(usual), str(len(settings_in(own)))])
    return header, lines


def figures_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """A line a method that all settings may have: paired gain over the best single source in every figure.

    Of ECE and Brier less is better, so there a negative gain is the good one.
    """
    figures = [figure for figure in METRICS if all(figure in row.scores for row in rows)]
    lines = []
    for method in shared_methods(rows):
        found = [gains(rows, method, figure) for figure in figures]
        lines.append([method, *("-" if gain is None else str(gain) for gain in found)])
    return ["method", *(METRICS[figure].title for figure in figures)], lines


def cost_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """A line a method: gradient steps of all networks behind it, and the time that it took by itself."""
    lines = []
    for method in methods_of(rows):
        notes = [row.notes for row in rows if row.method == method and "chosen" not in row.notes]
        if notes and all("steps" in note for note in notes):
            seconds = mean_and_spread([note["seconds"] for note in notes])
            lines.append([method, f"{sum(note['steps'] for note in notes) / len(notes):.0f}", seconds])
    return ["method", "gradient steps, networks that it starts from included", "seconds, without these"], lines


def conditions_table(rows: Sequence[Row], method: str) -> tuple[list[str], list[list[str]]]:
    """A line a setting: what a merge gained, and what might explain it; last, how each goes with the gain.

    `sources apart` is the macro F1 that the best source reaches alone less that of the worst. The last line is
    Spearman's rank correlation with the gain over all settings and seeds.
    """
    names = ["sources apart", "best single source", "after the merge stage"]
    lines, everything = [], []
    for setting in settings_in(rows):
        own = [row for row in rows if row.setting == setting]
        found = [_conditions(own, row) for row in own if row.method == method]
        if found := [values for values in found if values]:
            lines.append([setting, *(mean_and_spread(column) for column in zip(*found, strict=True))])
            everything += found
    if len(everything) > 2:
        gained, *columns = zip(*everything, strict=True)
        correlations = [rank_correlation(gained, column) for column in columns]
        cells = [f"{value:+.2f}" if math.isfinite(value) else "-" for value in correlations]
        lines.append(["all", "Spearman's correlation with the gain", *cells])
    return ["setting", "paired gain", *names], lines


def _conditions(own: Sequence[Row], row: Row) -> list[float]:
    """Gain and conditions of one run; nothing where a note is missing."""
    same = [other for other in own if other.seed == row.seed]
    best = next((other for other in same if other.method == BEST_SOURCE), None)
    alone: dict[str, Row] = {}
    for other in same:
        source, _, way = other.method.partition(", ")
        if way and other.method != USUAL_SOURCE:
            kept = alone.get(source, other)
            alone[source] = max(kept, other, key=lambda single: single.validation["macro_f1"])
    if best is None or not alone or "merged" not in row.notes:
        return []
    reached = [single.scores["macro_f1"] for single in alone.values()]
    merged = row.notes["merged"].get("test", row.notes["merged"]["validation"])
    gain = row.scores["macro_f1"] - best.scores["macro_f1"]
    return [gain, max(reached) - min(reached), best.scores["macro_f1"], merged]


def setting_table(rows: Sequence[Row], setting: str) -> tuple[list[str], list[list[str]]]:
    """A line a method: mean and spread of every figure over seeds, and the paired gain."""
    own = [row for row in rows if row.setting == setting]
    figures = [figure for figure in METRICS if figure in own[0].scores]
    header = ["method", *(METRICS[figure].title for figure in figures), "paired gain in macro F1", "seeds"]
    lines = []
    for method in methods_of(own):
        runs = [row for row in own if row.method == method]
        gain = gains(own, method) if method != BEST_SOURCE else None
        spread = [mean_and_spread([row.scores[figure] for row in runs]) for figure in figures]
        lines.append([method, *spread, "-" if gain is None else str(gain), str(len(runs))])
    return header, lines


def summary_table(rows: Sequence[Row], method: str, reference: str = BEST_SOURCE) -> tuple[list[str], list[list[str]]]:
    """A line a setting: a method beside another; last, all settings together."""
    header = ["setting", reference, method, "paired gain (95 % interval)", "wins/ties/losses"]
    lines = []
    for setting in settings_in(rows):
        gain = gains(rows, method, reference=reference, setting=setting)
        if gain is None:
            continue
        means = [
            mean_and_spread([row.scores["macro_f1"] for row in rows if (row.setting, row.method) == (setting, name)])
            for name in (reference, method)
        ]
        lines.append([setting, *means, str(gain), gain.record])
    if (overall := gains(rows, method, reference=reference)) is not None:
        lines.append(["all", "", "", str(overall), overall.record])
    return header, lines
