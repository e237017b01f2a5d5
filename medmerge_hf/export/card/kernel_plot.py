"""The picture of the kernel weights that goes with an export."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...merging.kernel_table import module_name, network_block
from ...sources.reference import short_name


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
        _mark_blocks(axes, order, labels=index == len(others) - 1)
    figure.savefig(file, dpi=120)


def _mark_blocks(axes: Any, layers: Sequence[str], labels: bool) -> None:
    """Name each block of the network below its first layer, with a line before it."""
    blocks = [network_block(layer) for layer in layers]
    starts = [place for place, block in enumerate(blocks) if place == 0 or blocks[place - 1] != block]
    for start in starts[1:]:
        axes.axvline(start - 0.5, color="0.85", lw=0.8, zorder=0)
    names = [blocks[start] for start in starts] if labels else [""] * len(starts)
    axes.set_xticks(starts, names, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_xlim(-1, len(layers))
