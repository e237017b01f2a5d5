"""From finished runs to rows: one a setting, method and seed, with all figures; what is missing is left out."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from ...evaluation.ranking import likeness
from ...sources.reference import stated_name
from ..methods.single_source import FINE_TUNED, PROBE
from ..plan import Plan, Setting
from ..registry import METHODS, OURS, Method


@dataclasses.dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        setting: which target and sources.
        method: what was done.
        seed: of the run.
        scores: on test.
        validation: on validation.
        notes: of the run.
        probabilities: `[N, K]` on test.
        labels: `[N]`.
        task: target and sources, whatever the share of labels.
        fraction: share of the labels that was used.
        classes: their names.
    """

    setting: str
    method: str
    seed: int
    scores: dict[str, float]
    validation: dict[str, float]
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)
    probabilities: Any = None
    labels: Any = None
    task: str = ""
    fraction: float = 1.0
    classes: Sequence[str] = ()

    def renamed(self, method: str, **notes: Any) -> "Row":
        """The same run as another method."""
        return dataclasses.replace(self, method=method, notes={**self.notes, **notes})


def collect(plan: Plan) -> list[Row]:
    """Rows of everything that is finished.

    The row `best single source` of a seed is that of the source and way of training it with the highest macro F1 on
    validation; `best single source, usual training` that among plain fine-tuning and LP-FT; `source by linear probe`
    the one that a probe of its features promises most of, fine-tuned: one training, nothing chosen on validation. In
    the same way the row `MedMerge (chosen on validation)` is the best of the forms of MedMerge that the plan has.
    """
    rows: list[Row] = []
    for setting in plan.settings:
        ways = ways_of_one(setting)
        usual_ways = tuple(f", {way.name}" for way in ways if way.usual)
        for seed in plan.seeds:
            singles = [
                row
                for source in setting.sources()
                for way in ways
                if (row := _row(plan, setting, way.name, seed, source)) is not None
            ]
            rows += singles
            if singles and len(singles) == len(setting.sources()) * len(ways):
                usual = [row for row in singles if row.method.endswith(usual_ways)] or singles
                rows += [_best(usual, USUAL_SOURCE), _best(singles, BEST_SOURCE)]
            if (probed := _probed(plan, setting, seed, singles)) is not None:
                rows.append(probed)
            predicting = [name for name in setting.methods if METHODS[name].predicts]
            others = [row for m in predicting if (row := _row(plan, setting, m, seed)) is not None]
            rows += others
            forms = [row for row in others if row.method.startswith(OURS)]
            if len(forms) > 1 and len(forms) == sum(method.startswith(OURS) for method in setting.methods):
                rows.append(_best(forms, BEST_MERGE))
    return rows


def ways_of_one(setting: Setting) -> list[Method]:
    """Methods of a setting that train one source and predict."""
    return [METHODS[name] for name in setting.ways if METHODS[name].predicts]


@dataclasses.dataclass(frozen=True)
class Promise:
    """What a linear probe promised of a source before any training, and the macro F1 that it then reached alone."""

    target: str
    source: str
    seed: int
    probe: float
    reached: float


def promises(plan: Plan) -> list[Promise]:
    """What each source promised on each target and seed, and the best that became of it alone."""
    found: dict[tuple[str, str, int], Promise] = {}
    for setting in plan.settings:
        for seed, source in itertools.product(plan.seeds, setting.sources()):
            key = plan.key(setting, PROBE, seed, source)
            rows = [_row(plan, setting, way.name, seed, source) for way in ways_of_one(setting)]
            if plan.runs.has(key) and all(rows):
                name, probe = stated_name(source), plan.runs.load(key).notes["probe"]
                best = max((row for row in rows if row), key=lambda row: row.validation["macro_f1"])
                place = (setting.target or setting.name, name, seed)
                found[place] = Promise(*place, probe, best.scores["macro_f1"])
    return list(found.values())


def alikeness(plan: Plan) -> dict[str, tuple[list[str], Any]]:
    """Setting -> names of its sources and their CKA on the target's training images, with the first seed."""
    found = {}
    for setting in plan.settings:
        keys = [plan.key(setting, PROBE, plan.seeds[0], source) for source in setting.sources()]
        if all(plan.runs.has(key) for key in keys):
            features = [plan.runs.load(key, states=True).states["features"]["train"].numpy() for key in keys]
            found[setting.name] = ([stated_name(source) for source in setting.sources()], likeness(features))
    return found


def _probed(plan: Plan, setting: Setting, seed: int, singles: list[Row]) -> Row | None:
    keys = [plan.key(setting, PROBE, seed, source) for source in setting.sources()]
    if not all(plan.runs.has(key) for key in keys):
        return None
    scores = [plan.runs.load(key).notes["probe"] for key in keys]
    name = f"{stated_name(setting.sources()[scores.index(max(scores))])}, {FINE_TUNED}"
    return next((row.renamed(PROBED_SOURCE, chosen=name) for row in singles if row.method == name), None)


def _best(rows: list[Row], name: str) -> Row:
    best = max(rows, key=lambda row: row.validation["macro_f1"])
    return best.renamed(name, chosen=best.method)


def _row(plan: Plan, setting: Setting, method: str, seed: int, source: Any = None) -> Row | None:
    key = plan.key(setting, method, seed, source)
    if not plan.runs.has(key):
        return None
    outcome = plan.runs.load(key)
    if isinstance(setting.ordered, tuple):
        outcome = outcome.in_order(setting.ordered)
    name = method if source is None else f"{stated_name(source)}, {method}"
    split = "test" if "test" in outcome.labels else "validation"
    scores = {part: outcome.scores(part, bool(setting.ordered)) for part in outcome.labels}
    return Row(
        setting.name,
        name,
        seed,
        scores[split],
        scores["validation"],
        outcome.notes,
        outcome.probabilities[split],
        outcome.labels[split],
        setting.task,
        setting.fraction or 1.0,
        outcome.notes.get("classes", ()),
    )


BEST_SOURCE = "best single source"

USUAL_SOURCE = "best single source, usual training"

PROBED_SOURCE = "source by linear probe"

BEST_MERGE = f"{OURS} (chosen on validation)"
