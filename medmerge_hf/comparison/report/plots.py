"""The pictures of a comparison: paired gains, label efficiency, confusion, calibration, kernel weights by depth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .rows import BEST_SOURCE, Row
from .tables import gains, merges_of, settings_in


def figure(width: float, height: float) -> Any:
    """An empty matplotlib figure."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def plot_forest(rows: Sequence[Row], method: str, file: str | Path) -> None:
    """Paired gain of a method over the best single source, a line a setting, all of them last.

    Args:
        rows: of a comparison.
        method: whose gain.
        file: the picture.
    """
    each = {setting: gains(rows, method, setting=setting) for setting in settings_in(rows)}
    settings = [setting for setting, gain in each.items() if gain is not None]
    found: list[Any] = [*(each[setting] for setting in settings), gains(rows, method)]
    drawn = figure(8.5, 1.2 + 0.32 * len(found))
    axes = drawn.subplots()
    for place, gain in enumerate(found):
        last = place == len(found) - 1
        color = "0.15" if last else "C0"
        axes.hlines(place, gain.low, gain.high, color=color, lw=2)
        axes.plot(gain.mean, place, "D" if last else "o", color=color, ms=7 if last else 5)
        axes.annotate(str(gain), (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    axes.axvline(0, color="0.5", lw=0.8)
    axes.axhline(len(found) - 1.5, color="0.85", lw=0.8)
    axes.set_yticks(range(len(found)), [*settings, "all settings"], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(f"macro F1: {method} - {BEST_SOURCE} (mean and 95 % interval over seeds)", fontsize=9)
    _plain(axes)
    drawn.savefig(file, dpi=120)


def plot_efficiency(rows: Sequence[Row], methods: Sequence[str], file: str | Path) -> None:
    """Macro F1 over the share of labels, a panel a task.

    Args:
        rows: of a comparison with several shares.
        methods: a line each.
        file: the picture.
    """
    tasks = list(dict.fromkeys(row.task for row in rows))
    drawn = figure(3.6 * len(tasks), 3.2)
    for axes, task in zip(drawn.subplots(1, len(tasks), sharey=True, squeeze=False)[0], tasks, strict=True):
        for index, method in enumerate(methods):
            own = [row for row in rows if row.task == task and row.method == method]
            shares = sorted({row.fraction for row in own})
            scores = [[row.scores["macro_f1"] for row in own if row.fraction == share] for share in shares]
            axes.plot(shares, [np.mean(values) for values in scores], "o-", color=f"C{index}", label=method, ms=4)
            low, high = ([pick(values) for values in scores] for pick in (min, max))
            axes.fill_between(shares, low, high, color=f"C{index}", alpha=0.15, lw=0)
        axes.set_xscale("log")
        ticks = sorted({row.fraction for row in rows if row.task == task})
        axes.set_xticks(ticks, [f"{share:.0%}" for share in ticks])
        axes.minorticks_off()
        axes.set_title(task, fontsize=9)
        axes.set_xlabel("share of labels (band: all seeds)", fontsize=9)
        _plain(axes)
        axes.set_ylabel("macro F1" if task == tasks[0] else "")
    drawn.axes[0].legend(frameon=False, fontsize=8)
    drawn.savefig(file, dpi=120)


def plot_confusion(rows: Sequence[Row], setting: str, methods: Sequence[str], file: str | Path) -> None:
    """Confusion matrices of some methods on one setting, all seeds together, a share of each true class a row."""
    from sklearn.metrics import confusion_matrix

    drawn = figure(3.2 * len(methods), 3.2)
    for axes, method in zip(drawn.subplots(1, len(methods), squeeze=False)[0], methods, strict=True):
        own = [row for row in rows if (row.setting, row.method) == (setting, method)]
        labels = np.concatenate([row.labels for row in own])
        predicted = np.concatenate([row.probabilities.argmax(1) for row in own])
        classes = range(own[0].probabilities.shape[1])
        matrix = confusion_matrix(labels, predicted, labels=list(classes), normalize="true")
        axes.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
        for row, line in enumerate(matrix):
            for column, value in enumerate(line):
                color = "white" if value > 0.6 else "0.2"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=color)
        names = own[0].classes or [str(index) for index in classes]
        axes.set_xticks(classes, names, rotation=45, ha="right", fontsize=7)
        axes.set_yticks(classes, names, fontsize=7)
        axes.set_title(method, fontsize=9)
        axes.set_xlabel("predicted", fontsize=8)
    drawn.axes[0].set_ylabel("true", fontsize=8)
    drawn.savefig(file, dpi=120)


def plot_calibration(rows: Sequence[Row], setting: str, methods: Sequence[str], file: str | Path) -> None:
    """How often the predicted class is right over how sure the method was, all seeds together."""
    from sklearn.calibration import calibration_curve

    drawn = figure(4, 3.6)
    axes = drawn.subplots()
    axes.plot([0, 1], [0, 1], color="0.6", lw=0.8, ls="--")
    for index, method in enumerate(methods):
        own = [row for row in rows if (row.setting, row.method) == (setting, method)]
        sure = np.concatenate([row.probabilities.max(1) for row in own])
        right = np.concatenate([row.probabilities.argmax(1) == row.labels for row in own])
        share, mean = calibration_curve(right, sure, n_bins=6, strategy="quantile")
        axes.plot(mean, share, "o-", color=f"C{index}", ms=4, label=method)
    axes.set_xlabel("probability of the predicted class", fontsize=9)
    axes.set_ylabel("share that is right", fontsize=9)
    axes.legend(frameon=False, fontsize=8)
    _plain(axes)
    drawn.savefig(file, dpi=120)


def plot_depth(rows: Sequence[Row], setting: str, method: str, file: str | Path) -> None:
    """Size of the kernel weights of each source but the anchor by block: the paper's layer-wise transfer picture.

    The size is the root mean square: weights of either sign would cancel in a mean.
    Seeds may differ in their anchor and in the sources that were kept: a source is averaged over those that have it.
    """
    found = [row.notes["depth"] for row in rows if (row.setting, row.method) == (setting, method)]
    blocks, orders = list(found[0]), [list(next(iter(run.values()))) for run in found]
    sources = list(dict.fromkeys(source for order in orders for source in order[1:]))
    drawn = figure(1.5 + 0.55 * len(blocks), 2.6)
    axes = drawn.subplots()
    width = 0.8 / len(sources)
    for index, source in enumerate(sources):
        runs = [run for run, order in zip(found, orders, strict=True) if source in order[1:]]
        sizes = np.array([[run[block][source] for block in blocks] for run in runs])
        places = np.arange(len(blocks)) + (index - (len(sources) - 1) / 2) * width
        axes.bar(places, sizes.mean(0), width * 0.9, color=f"C{index}", label=f"{source} ({len(runs)} runs)")
        axes.vlines(places, sizes.min(0), sizes.max(0), color="0.2", lw=1)
    axes.set_ylim(bottom=0)
    axes.set_xticks(range(len(blocks)), blocks, rotation=45, ha="right", fontsize=7)
    axes.set_ylabel("kernel weights (RMS)", fontsize=8)
    axes.ticklabel_format(axis="y", scilimits=(-2, 2))  # long numbers would push the label out of the picture
    axes.tick_params(axis="y", labelsize=7)
    axes.legend(frameon=False, fontsize=8)
    _plain(axes)
    drawn.savefig(file, dpi=120)


def draw_all(rows: Sequence[Row], folder: Path, ours: str) -> dict[str, list[Path]]:
    """Every picture that the rows allow.

    Args:
        rows: of a comparison.
        folder: where to.
        ours: the method that is shown beside the best single source.

    Returns:
        Caption -> files, in the order of a page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, list[Path]] = {}

    def picture(caption: str, name: str, draw: Any, *args: Any) -> None:
        file = folder / f"{name}.png"
        draw(rows, *args, file)
        pictures.setdefault(caption, []).append(file)

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
