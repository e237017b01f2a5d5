"""How every picture looks: legible on a light and on a dark page, in grey, on a telephone, and said in words."""

import base64
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


# Text and lines; in an SVG they take the colour of the page's text. Grey and the others show on white and on black.
INK, GREY = "#1f2430", "#868d98"

COLOURS = ("#2478b8", "#cf6410", "#1d8f63", "#9566c4", "#a3792c", "#c2508a")

MARKERS, DASHES, HATCHES = "osD^vP", ("-", "--", "-.", ":", "-", "--"), ("", "///", "...", "xxx", "\\\\\\", "+++")

DARK_INK = "#e4e7ec"

NUMBERED = 14  # classes up to which the cells of a confusion matrix have room for a number


@contextmanager
def look() -> Iterator[None]:
    """What a function draws has the look of this package; used as a decorator."""
    import matplotlib
    from cycler import cycler

    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    size = {"font.size": 10, "axes.titlesize": 10, "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8}
    plain = {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "legend.fontsize": 8}
    cycle = {"axes.prop_cycle": cycler(color=COLOURS), "axes.facecolor": "none"}
    style: dict[Any, Any] = {**dict.fromkeys(inked, INK), **size, **plain, **cycle}
    with matplotlib.rc_context(style):
        yield


def figure(width: float, height: float) -> Any:
    """An empty matplotlib figure of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def series(index: int) -> dict[str, Any]:
    """How the line of a place in a legend is drawn: colour, marker and dashes, each of which tells it apart."""
    place = index % len(COLOURS)
    return {"color": COLOURS[place], "marker": MARKERS[place], "ls": DASHES[place], "ms": 4}


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A picture and what it says in words.

    Attributes:
        figure: of matplotlib.
        alt: for those who do not see it: what is drawn, and the figures that matter.
        caption: below it.
    """

    figure: Any
    alt: str
    caption: str = ""

    def save(self, file: str | Path) -> None:
        """Write it, as PNG or whatever the suffix says."""
        self.figure.savefig(file, dpi=120)

    @property
    def width(self) -> int:
        """Pixels of a screen at its natural size."""
        return round(96 * self.figure.get_figwidth())

    @property
    def svg(self) -> str:
        """Transparent SVG whose ink is light where the reader's pages are dark; the same picture, the same text."""
        import io

        import matplotlib

        file = io.StringIO()
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "medmerge"}):
            self.figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        ink = f"<style>svg{{color:{INK}}}@media(prefers-color-scheme:dark){{svg{{color:{DARK_INK}}}}}</style>"
        text = re.sub(r"<metadata>.*?</metadata>", ink, file.getvalue(), flags=re.DOTALL)
        return text[text.index("<svg") :].replace(INK, "currentColor")

    @property
    def uri(self) -> str:
        """The SVG as a `data:` address."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.svg.encode()).decode()}"


def draw_confusion(axes: Any, counts: np.ndarray, names: Sequence[str], shares: bool = False) -> None:
    """Images of each true class by what was predicted; shaded by their share of the true class.

    Args:
        axes: of matplotlib.
        counts: `[K, K]` images, true classes as rows.
        names: of the classes.
        shares: write shares into the cells instead of images.
    """
    total = counts.sum(axis=1, keepdims=True)
    matrix = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    axes.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= NUMBERED:
        for (row, column), share in np.ndenumerate(matrix):
            text = f"{share:.2f}" if shares else str(counts[row, column])
            color = "white" if share > 0.6 else "#222222"  # on blue, whatever the page
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=color)
    axes.spines[:].set_visible(False)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")


def draw_calibration(axes: Any, curves: Mapping[str, Sequence[Sequence[float]]], of: str, share: str) -> None:
    """How often something is so over how sure a model is of it.

    Args:
        axes: of matplotlib.
        curves: whose -> points of [`reliability`].
        of: what the probability is of.
        share: what the share is of.
    """
    axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls=":", label="as sure as it is right")
    for index, (name, points) in enumerate(curves.items()):
        mean, right, _ = zip(*points, strict=True)
        axes.plot(mean, right, label=name, **series(index))
    axes.set_xlabel(of)
    axes.set_ylabel(share)
    axes.legend()


def calibration_in_words(curves: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """How far probabilities are from the truth.

    Example:
        >>> calibration_in_words({"merged": [[0.6, 0.5, 10], [0.9, 1.0, 30]]})
        'merged: sure to 60 % and right in 50 %, 90 % and 100 %.'
    """
    said = []
    for name, points in curves.items():
        first, *others = (f"{sure:.0%} and {right:.0%}".replace("%", " %") for sure, right, _ in points)
        said.append(", ".join([f"{name}: sure to {first.replace(' and ', ' and right in ')}", *others]))
    return f"{'; '.join(said)}."
