"""Tables and pictures of a merge."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .analysis import module_name, network_stage


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns.

    Example:
        >>> print(markdown_table(["a", "bc"], [["1", "2"]]))
        | a | bc |
        |---|----|
        | 1 | 2  |
    """
    header, *rows = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in [header, *rows]]
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
    """Draw the other sources' kernel weights layer by layer: median, quartiles, and 5-95 % of each.

    Args:
        table: of [`MedMergeModel.kernel_weights`].
        file: the picture, PNG or whatever its suffix says.
    """
    from matplotlib.figure import Figure

    anchor, *others = table["source"].unique()
    layers = table["tensor"].map({tensor: module_name(tensor) for tensor in table["tensor"].unique()})
    order = list(layers.unique())
    places = {layer: place for place, layer in enumerate(order)}
    figure = Figure(figsize=(min(12, 3 + 0.16 * len(order)), 1 + 2 * len(others)), layout="constrained")
    for index, (source, axes) in enumerate(
        zip(others, figure.subplots(len(others), squeeze=False)[:, 0], strict=True)
    ):
        chosen = table["source"] == source
        spread = table["weight"][chosen].groupby(layers[chosen], sort=False).quantile([0.05, 0.25, 0.5, 0.75, 0.95])
        levels = spread.unstack()
        x = [places[layer] for layer in levels.index]
        axes.vlines(x, levels[0.05], levels[0.95], color=f"C{index}", lw=1)
        axes.vlines(x, levels[0.25], levels[0.75], color=f"C{index}", lw=4, alpha=0.5)
        axes.plot(x, levels[0.5], "o", color=f"C{index}", ms=3)
        axes.axhline(0, color="0.5", lw=0.8)
        axes.set_ylabel("kernel weight")
        caption = "dot: median, bar: quartiles, line: 5-95 %"
        axes.set_title(f"0 = {short_name(anchor)}, 1 = {short_name(source)}   ({caption})", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        _mark_stages(axes, order, labels=index == len(others) - 1)
    figure.savefig(file, dpi=120)


def _mark_stages(axes: Any, layers: Sequence[str], labels: bool) -> None:
    """Name each stage of the network below its first layer, with a line before it."""
    stages = [network_stage(layer) for layer in layers]
    starts = [place for place, stage in enumerate(stages) if place == 0 or stages[place - 1] != stage]
    for start in starts[1:]:
        axes.axvline(start - 0.5, color="0.85", lw=0.8, zorder=0)
    names = [stages[start] for start in starts] if labels else [""] * len(starts)
    axes.set_xticks(starts, names, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_xlim(-1, len(layers))


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
