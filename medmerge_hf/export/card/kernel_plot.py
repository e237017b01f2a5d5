"""The picture of the kernel weights that goes with an export."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...evaluation.drawing import COLOURS, GREY, Drawing, figure, look
from ...merging.kernel_table import module_name, network_block
from ...sources.reference import short_name


def plot_kernel_weights(table: Any, file: str | Path) -> None:
    """Draw the other sources' kernel weights layer by layer.

    Args:
        table: of [`MedMergeModel.kernel_weights`].
        file: the picture, PNG or whatever its suffix says.
    """
    draw_kernel_weights(table).save(file)


@look()
def draw_kernel_weights(table: Any) -> Drawing:
    """The other sources' kernel weights layer by layer: median, quartiles, and 5-95 % of each.

    Args:
        table: of [`MedMergeModel.kernel_weights`].
    """
    anchor, *others = table["source"].unique()
    layers = table["tensor"].map({tensor: module_name(tensor) for tensor in table["tensor"].unique()})
    order = list(layers.unique())
    places = {layer: place for place, layer in enumerate(order)}
    drawn = figure(min(12, 3 + 0.16 * len(order)), 1 + 2 * len(others))
    said = []
    for index, (source, axes) in enumerate(zip(others, drawn.subplots(len(others), squeeze=False)[:, 0], strict=True)):
        chosen = table["source"] == source
        spread = table["weight"][chosen].groupby(layers[chosen], sort=False).quantile([0.05, 0.25, 0.5, 0.75, 0.95])
        levels = spread.unstack()
        x, color = [places[layer] for layer in levels.index], COLOURS[index % len(COLOURS)]
        axes.vlines(x, levels[0.05], levels[0.95], color=color, lw=1)
        axes.vlines(x, levels[0.25], levels[0.75], color=color, lw=4, alpha=0.5)
        axes.plot(x, levels[0.5], "o", color=color, ms=3)
        axes.axhline(0, color=GREY, lw=0.8)
        axes.set_ylabel("kernel weight")
        axes.set_title(f"0 = {short_name(anchor)}, 1 = {short_name(source)}", fontsize=9)
        _mark_blocks(axes, order, labels=index == len(others) - 1)
        low, high = levels[0.5].idxmin(), levels[0.5].idxmax()
        said.append(
            f"of {short_name(source)} the medians reach from {levels[0.5][low]:.3f} in {low} to "
            f"{levels[0.5][high]:.3f} in {high}"
        )
    alt = f"Kernel weights of {len(order)} layers, from the input to the head: {'; '.join(said)}."
    drawn.supxlabel("dot: median of a layer, bar: quartiles, line: 5-95 %", fontsize=8)
    return Drawing(drawn, alt)


def _mark_blocks(axes: Any, layers: Sequence[str], labels: bool) -> None:
    """Name each block of the network below its first layer, with a line before it."""
    blocks = [network_block(layer) for layer in layers]
    starts = [place for place, block in enumerate(blocks) if place == 0 or blocks[place - 1] != block]
    for start in starts[1:]:
        axes.axvline(start - 0.5, color=GREY, alpha=0.4, lw=0.8, zorder=0)
    names = [blocks[start] for start in starts] if labels else [""] * len(starts)
    axes.set_xticks(starts, names, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_xlim(-1, len(layers))
