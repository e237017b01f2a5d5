"""Tables and pictures of a merge."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .analysis import network_stage


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns.

    Example:
        >>> print(markdown_table(["a", "bc"], [["1", "2"]]))
        | a | bc |
        |---|----|
        | 1 | 2  |
    """
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in [header, *rows]
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def mean_and_spread(values: Sequence[float]) -> str:
    """`mean ± standard deviation` (of the sample), the mean alone for one value.

    Example:
        >>> mean_and_spread([0.4, 0.5])
        '0.450 ± 0.071'
    """
    mean = f"{statistics.fmean(values):.3f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.3f}"


def plot_kernel_weights(table: Any, file: str | Path) -> None:
    """Draw the spread of the other sources' kernel weights by stage of the network.

    Args:
        table: of [`MedMergeModel.kernel_weights`].
        file: the picture, PNG or whatever its suffix says.
    """
    from matplotlib.figure import Figure

    anchor, *others = list(dict.fromkeys(table["source"]))
    stages = table["tensor"].map(network_stage)
    order = list(dict.fromkeys(stages))
    figure = Figure(figsize=(1.5 + 0.55 * len(order) * len(others), 3.6), layout="constrained")
    axes = figure.subplots()
    for index, source in enumerate(others):
        chosen = table["source"] == source
        values = [table["weight"][chosen & (stages == stage)].to_numpy() for stage in order]
        places = [place + (index - (len(others) - 1) / 2) * 0.8 / len(others) for place in range(len(order))]
        boxes = axes.boxplot(
            values, positions=places, widths=0.6 / len(others), whis=(1, 99), showfliers=False, patch_artist=True
        )
        for box in boxes["boxes"]:
            box.set_facecolor(f"C{index}")
            box.set_alpha(0.6)
        axes.plot([], [], color=f"C{index}", lw=6, alpha=0.6, label=short_name(source))
    axes.axhline(0, color="0.5", lw=0.8)
    axes.set_xticks(
        range(len(order)), order, rotation=45 if len(order) > 8 else 0, ha="right" if len(order) > 8 else "center"
    )
    axes.set_ylabel("kernel weight")
    axes.set_title(f"0 = {short_name(anchor)}, 1 = the other source\nbox: quartiles, whiskers: 1-99 %", fontsize=8)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=120)


def short_name(source: str) -> str:
    """The last part of a path or Hub id, without suffix."""
    name = source.rstrip("/").rsplit("/", 1)[-1]
    return name.removesuffix(".safetensors").removesuffix(".pth").removesuffix(".bin")


def draw_scores(axes: Any, scores: Mapping[str, Mapping[str, Sequence[float]]], label: str) -> None:
    """Draw a group of bars a method, one bar a stage: its mean, and a dot a seed.

    Args:
        axes: of matplotlib.
        scores: method -> stage -> a figure for each seed.
        label: what the figure is.
    """
    for row, stages in enumerate(scores.values()):
        height = 0.8 / len(stages)
        for index, (stage, values) in enumerate(stages.items()):
            place = row + (index - (len(stages) - 1) / 2) * height
            axes.barh(
                place,
                statistics.fmean(values),
                height * 0.92,
                color=f"C{index}",
                alpha=0.7,
                label=None if row else stage,
            )
            axes.plot(values, [place] * len(values), "o", color="0.15", ms=3.5)
    axes.set_yticks(range(len(scores)), list(scores))
    axes.invert_yaxis()
    axes.set_xlabel(f"{label} (a dot a seed)")
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    axes.spines[["top", "right"]].set_visible(False)


def plot_scores(scores: Mapping[str, Mapping[str, Sequence[float]]], file: str | Path, label: str) -> None:
    """Save the picture of [`draw_scores`] as a file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 0.9 + 0.6 * len(scores)), layout="constrained")
    draw_scores(figure.subplots(), scores, label)
    figure.savefig(file, dpi=120)
