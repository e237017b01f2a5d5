"""Was the ranking right? What probes promised of all sources together, beside what the other sources then gained."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

from ...evaluation.metrics import METRICS
from ...evaluation.tables import mean_and_spread
from ..methods.single_source import TOGETHER
from ..plan import Plan
from .rows import Row
from .tables import rank_correlation


# What the other sources gain: a method of them, and the same of seeds of one source.
PAIRS = [("ensemble", "ensemble of seeds"), ("distilled", "self-trained")]

FIGURES = ("macro_f1", "auroc")


@dataclasses.dataclass(frozen=True)
class Foresight:
    """What probes said of merging before any training, for one setting and seed.

    Attributes:
        setting: which target and sources.
        seed: of the run.
        log_loss: of all sources' features together less that of the best source's.
        macro_f1: likewise.
    """

    setting: str
    seed: int
    log_loss: float
    macro_f1: float


def foresights(plan: Plan) -> list[Foresight]:
    """What probes of all sources together promised, wherever that was run.

    Args:
        plan: of the comparison.
    """
    found = []
    for setting, seed in itertools.product(plan.settings, plan.seeds):
        key = plan.key(setting, TOGETHER, seed)
        if TOGETHER in setting.methods and plan.runs.has(key):
            notes = plan.runs.load(key).notes
            found.append(Foresight(setting.name, seed, notes["log_loss"][0], notes["macro_f1"][0]))
    return found


def foresight_table(rows: Sequence[Row], foreseen: Sequence[Foresight]) -> tuple[list[str], list[list[str]]]:
    """A line a setting: what was promised, and what became of it with sources instead of seeds of one of them.

    Last, Spearman's rank correlation of the promise (a lower log-loss) with each gain, over all settings and seeds.

    Args:
        rows: of the comparison.
        foreseen: of [`foresights`].
    """
    scores = {(row.setting, row.seed, row.method): row.scores for row in rows}
    found = [(one.setting, [one.log_loss, one.macro_f1, *_gained(scores, one)]) for one in foreseen]
    lines = []
    for setting in dict.fromkeys(name for name, _ in found):
        columns = zip(*(values for name, values in found if name == setting), strict=True)
        lines.append([setting, *map(_mean, columns)])
    if len(found) > 2:
        promise, *gains = zip(*([-values[0], *values[2:]] for _, values in found), strict=True)
        lines.append(["all", "Spearman's correlation", "", *(_correlation(promise, gain) for gain in gains)])
    gained = [f"{ours} - {theirs}: {METRICS[figure].title}" for ours, theirs in PAIRS for figure in FIGURES]
    return ["setting", "probe together - best: log-loss", "probe: macro F1", *gained], lines


def _gained(scores: dict[tuple[str, int, str], dict[str, float]], one: Foresight) -> list[float]:
    """NaN where a run is missing."""
    found = []
    for pair, figure in itertools.product(PAIRS, FIGURES):
        ours, theirs = (scores.get((one.setting, one.seed, method), {}).get(figure, math.nan) for method in pair)
        found.append(ours - theirs)
    return found


def _mean(values: Sequence[float]) -> str:
    known = [value for value in values if math.isfinite(value)]
    return mean_and_spread(known) if known else "-"


def _correlation(promise: Sequence[float], gain: Sequence[float]) -> str:
    known = [(one, other) for one, other in zip(promise, gain, strict=True) if math.isfinite(other)]
    found = rank_correlation(*zip(*known, strict=True)) if len(known) > 2 else math.nan
    return f"{found:+.2f}" if math.isfinite(found) else "-"
