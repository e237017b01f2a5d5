"""The pictures of a comparison: paired gains, label efficiency, confusion, calibration, kernel weights by depth."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...evaluation.counted import confusion_counts, reliability
from ...evaluation.drawing import (
    COLOURS,
    GREY,
    HATCHES,
    INK,
    Drawing,
    calibration_in_words,
    draw_calibration,
    draw_confusion,
    figure,
    look,
    series,
)
from ...evaluation.predictions import Predictions
from .rows import BEST_SOURCE, Row
from .tables import gains, merges_of, settings_in


@look()
def plot_forest(rows: Sequence[Row], method: str) -> Drawing:
    """Paired gain of a method over the best single source, a line a setting, all of them last.

    Args:
        rows: of a comparison.
        method: whose gain.
    """
    each = {setting: gains(rows, method, setting=setting) for setting in settings_in(rows)}
    settings = [setting for setting, gain in each.items() if gain is not None]
    found: list[Any] = [*(each[setting] for setting in settings), gains(rows, method)]
    drawn = figure(8.5, 1.2 + 0.32 * len(found))
    axes = drawn.subplots()
    for place, gain in enumerate(found):
        last = place == len(found) - 1
        color = INK if last else COLOURS[0]
        axes.hlines(place, gain.low, gain.high, color=color, lw=2)
        axes.plot(gain.mean, place, "D" if last else "o", color=color, ms=7 if last else 5)
        axes.annotate(str(gain), (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    axes.axvline(0, color=GREY, lw=0.8)
    axes.axhline(len(found) - 1.5, color=GREY, lw=0.8, alpha=0.4)
    axes.set_yticks(range(len(found)), [*settings, "all settings"])
    axes.invert_yaxis()
    axes.set_xlabel(f"macro F1: {method} - {BEST_SOURCE} (mean and 95 % interval over seeds)")
    alt = f"Gain of {method} in macro F1 over the {BEST_SOURCE}: {found[-1]} over all settings"
    parts = [f"{setting} {gain}" for setting, gain in zip(settings, found, strict=False)]
    return Drawing(drawn, f"{alt}; {'; '.join(parts)}.")


@look()
def plot_efficiency(rows: Sequence[Row], methods: Sequence[str]) -> Drawing:
    """Macro F1 over the share of labels, a panel a task.

    Args:
        rows: of a comparison with several shares.
        methods: a line each.
    """
    tasks = list(dict.fromkeys(row.task for row in rows))
    drawn, said = figure(3.6 * len(tasks), 3.2), []
    for axes, task in zip(drawn.subplots(1, len(tasks), sharey=True, squeeze=False)[0], tasks, strict=True):
        for index, method in enumerate(methods):
            own = [row for row in rows if row.task == task and row.method == method]
            shares = sorted({row.fraction for row in own})
            scores = [[row.scores["macro_f1"] for row in own if row.fraction == share] for share in shares]
            means = [float(np.mean(values)) for values in scores]
            axes.plot(shares, means, label=method, **series(index))
            low, high = ([pick(values) for values in scores] for pick in (min, max))
            axes.fill_between(shares, low, high, color=series(index)["color"], alpha=0.15, lw=0)
            steps = ", ".join(f"{mean:.3f} of {share:.0%}" for share, mean in zip(shares, means, strict=True))
            said.append(f"{task}, {method}: {steps}")
        axes.set_xscale("log")
        ticks = sorted({row.fraction for row in rows if row.task == task})
        axes.set_xticks(ticks, [f"{share:.0%}" for share in ticks])
        axes.minorticks_off()
        axes.set_title(task, fontsize=9)
        axes.set_xlabel("share of labels (band: all seeds)")
        axes.set_ylabel("macro F1" if task == tasks[0] else "")
    drawn.axes[0].legend()
    return Drawing(drawn, f"Macro F1 by the share of labels. {'; '.join(said)}.")


def _together(rows: Sequence[Row], setting: str, method: str) -> tuple[Predictions, Sequence[str]]:
    """What a method predicts in a setting with all seeds, and the classes' names."""
    own = [row for row in rows if (row.setting, row.method) == (setting, method)]
    labels, found = (np.concatenate([getattr(row, kind) for row in own]) for kind in ("labels", "probabilities"))
    return Predictions.of_probabilities(found, labels), own[0].classes or [str(k) for k in range(found.shape[1])]


@look()
def plot_confusion(rows: Sequence[Row], setting: str, methods: Sequence[str]) -> Drawing:
    """Confusion matrices of some methods on one setting, all seeds together, a share of each true class a row."""
    drawn, said = figure(3.2 * len(methods), 3.2), []
    for axes, method in zip(drawn.subplots(1, len(methods), squeeze=False)[0], methods, strict=True):
        seen, names = _together(rows, setting, method)
        counts = np.zeros((len(names), len(names)), dtype=int)
        for true, predicted, images in confusion_counts(seen):
            counts[true, predicted] = images
        draw_confusion(axes, counts, names, shares=True)
        axes.set_title(method, fontsize=9)
        recall = np.divide(counts.diagonal(), counts.sum(1), out=np.zeros(len(names)), where=counts.sum(1) > 0)
        said.append(f"{method}: {', '.join(f'{name} {r:.2f}' for name, r in zip(names, recall, strict=True))}")
    drawn.axes[0].set_ylabel("true")
    return Drawing(drawn, f"Confusion on {setting}; share of each class that is recognised, {'; '.join(said)}.")


@look()
def plot_calibration(rows: Sequence[Row], setting: str, methods: Sequence[str]) -> Drawing:
    """How often the predicted class is right over how sure the method was, all seeds together."""
    drawn = figure(4, 3.6)
    curves = {method: reliability(_together(rows, setting, method)[0]) for method in methods}
    draw_calibration(drawn.subplots(), curves, "probability of the predicted class", "share that is right")
    return Drawing(drawn, f"Calibration on {setting}. {calibration_in_words(curves)}")


@look()
def plot_depth(rows: Sequence[Row], setting: str, method: str) -> Drawing:
    """Size of the kernel weights of each source but the anchor by block: the paper's layer-wise transfer picture.

    The size is the root mean square: weights of either sign would cancel in a mean.
    Seeds may differ in their anchor and in the sources that were kept: a source is averaged over those that have it.
    """
    found = [row.notes["depth"] for row in rows if (row.setting, row.method) == (setting, method)]
    blocks, orders = list(found[0]), [list(next(iter(run.values()))) for run in found]
    sources = list(dict.fromkeys(source for order in orders for source in order[1:]))
    drawn, said = figure(1.5 + 0.55 * len(blocks), 2.6), []
    axes = drawn.subplots()
    width = 0.8 / len(sources)
    for index, source in enumerate(sources):
        runs = [run for run, order in zip(found, orders, strict=True) if source in order[1:]]
        sizes = np.array([[run[block][source] for block in blocks] for run in runs])
        places = np.arange(len(blocks)) + (index - (len(sources) - 1) / 2) * width
        way = index % len(COLOURS)
        bars = {"color": COLOURS[way], "hatch": HATCHES[way], "edgecolor": "white", "lw": 0}
        axes.bar(places, sizes.mean(0), width * 0.9, label=f"{source} ({len(runs)} runs)", **bars)
        axes.vlines(places, sizes.min(0), sizes.max(0), color=INK, lw=1)
        parts = (f"{block} {size:.2g}" for block, size in zip(blocks, sizes.mean(0), strict=True))
        said.append(f"{source}: {', '.join(parts)}")
    axes.set_ylim(bottom=0)
    axes.set_xticks(range(len(blocks)), blocks, rotation=45, ha="right", fontsize=7)
    axes.set_ylabel("kernel weights (RMS)", fontsize=8)
    axes.ticklabel_format(axis="y", scilimits=(-2, 2))  # long numbers would push the label out of the picture
    axes.legend()
    return Drawing(drawn, f"Root mean square of the kernel weights by block in {setting}. {'; '.join(said)}.")


def draw_all(rows: Sequence[Row], folder: Path, ours: str) -> dict[str, list[Drawing]]:
    """Every picture that the rows allow, also as PNG.

    Args:
        rows: of a comparison.
        folder: where to.
        ours: the method that is shown beside the best single source.

    Returns:
        Title of a section -> its pictures, in the order of a page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, list[Drawing]] = {}

    def picture(title: str, name: str, draw: Callable[..., Drawing], *args: Any) -> None:
        drawn = draw(rows, *args)
        drawn.save(folder / f"{name}.png")
        pictures.setdefault(title, []).append(drawn)

    for method in (m for m in merges_of(rows) if gains(rows, m) is not None):
        name = "".join(letter if letter.isalnum() else "_" for letter in method).strip("_")
        picture(f"Paired gain of {method}", f"forest_{name}", plot_forest, method)
    if len({(row.task, row.fraction) for row in rows}) > len({row.task for row in rows}):
        picture("Label efficiency", "label_efficiency", plot_efficiency, [BEST_SOURCE, ours])
    for index, setting in enumerate(settings_in(rows)):
        present = [m for m in (BEST_SOURCE, ours) if any((r.setting, r.method) == (setting, m) for r in rows)]
        if len(present) < 2 or any(row.labels.ndim == 2 for row in rows if row.setting == setting):
            continue
        picture(setting, f"confusion_{index}", plot_confusion, setting, present)
        picture(setting, f"calibration_{index}", plot_calibration, setting, present)
        if all("depth" in row.notes for row in rows if (row.setting, row.method) == (setting, ours)):
            picture(setting, f"depth_{index}", plot_depth, setting, ours)
    return pictures
