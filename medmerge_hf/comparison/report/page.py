"""What a comparison leaves in its folder: Markdown, CSV, LaTeX, pictures, and one HTML page that holds them all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ...evaluation.drawing import Drawing
from ...evaluation.page import Grid, Section, render_page
from ...evaluation.tables import markdown_table
from ..registry import METHODS, OURS
from .foresight import Foresight, foresight_table
from .plots import draw_all
from .rows import BEST_SOURCE, Promise, Row
from .tables import (
    conditions_table,
    cost_table,
    figures_table,
    gains,
    merges_of,
    overall_table,
    ranking_table,
    setting_table,
    settings_in,
    summary_table,
)


Table = tuple[list[str], list[list[str]]]

NOTE = (
    "Mean and standard deviation over seeds; gains are paired by seed and set against the best single source, which "
    "is chosen on validation; intervals are 95 % bootstrap intervals over seeds (over settings, then seeds, for all)."
)


def sections_of(rows: Sequence[Row]) -> dict[str, list[Table]]:
    """Title -> tables, in the order of a page."""
    ours = merges_of(rows)
    sections = {"All settings": [overall_table(rows)], "All settings, every figure": [figures_table(rows)]}
    sections |= {f"{method}, setting by setting": [summary_table(rows, method)] for method in ours}
    for control in (method for method in METHODS.values() if method.control):
        if (controlled := summary_table(rows, control.of, control.name))[1]:
            sections[f"{control.of} over {control.name}: {control.control}"] = [controlled]
    explained = {f"When {method} gains": conditions_table(rows, method) for method in ours}
    sections |= {title: [table] for title, table in explained.items() if table[1]}
    if (costs := cost_table(rows))[1]:
        sections["What it cost"] = [costs]
    return sections | {setting: [setting_table(rows, setting)] for setting in settings_in(rows)}


def write_csv(rows: Sequence[Row], file: Path) -> None:
    """All runs, a line each."""
    columns = [{"setting": r.setting, "method": r.method, "seed": r.seed, **r.scores} for r in rows]
    pd.DataFrame(columns).to_csv(file, index=False)


def latex_table(table: Table) -> str:
    """A table for a paper (booktabs).

    Example:
        >>> print(latex_table((["a", "b"], [["50 %", "x_y"]])))
        \\begin{tabular}{ll}
        \\toprule
        a & b \\\\
        \\midrule
        50 \\% & x\\_y \\\\
        \\bottomrule
        \\end{tabular}
    """

    def symbols(cell: str) -> str:
        return cell.replace("±", r"$\pm$").replace("<", "$<$").replace(">", "$>$")

    header, lines = table
    styled = pd.DataFrame(lines, columns=header).style.hide(axis="index")
    styled = styled.format(symbols, escape="latex").format_index(symbols, axis=1, escape="latex")
    return styled.to_latex(hrules=True).rstrip()


def page_sections(sections: Mapping[str, Sequence[Table]], pictures: Mapping[str, Sequence[Drawing]]) -> list[Section]:
    """What the HTML page shows, in its order.

    Args:
        sections: title -> tables.
        pictures: title -> pictures; titles that no table has come after the first.
    """
    first, *rest = sections
    order = dict.fromkeys([first, *(name for name in pictures if name not in sections), *rest])
    return [
        Section(
            name,
            drawings=pictures.get(name, ()),
            tables=[Grid(name, *table) for table in sections.get(name, ())],
        )
        for name in order
    ]


def write_report(
    rows: Sequence[Row],
    folder: Path,
    title: str = "Comparison",
    promised: Sequence[Promise] = (),
    alike: Mapping[str, tuple[Sequence[str], Any]] | None = None,
    foreseen: Sequence[Foresight] = (),
) -> str:
    """Write comparison.md, .csv, .tex, .html and the pictures.

    Args:
        rows: of finished runs.
        folder: where to.
        title: of the page.
        promised: what a linear probe promised of each source.
        alike: setting -> names of its sources and their CKA `[S, S]`.
        foreseen: what probes promised of all sources together.

    Returns:
        The Markdown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sections = sections_of(rows)
    if promised:
        sections["Which source promises most, before any training"] = [ranking_table(promised)]
    if foreseen:
        sections["Did probes foresee what the other sources gain?"] = [foresight_table(rows, foreseen)]
    for setting, (names, matrix) in (alike or {}).items():
        lines = [[name, *(f"{value:.2f}" for value in row)] for name, row in zip(names, matrix, strict=True)]
        sections[f"How alike the sources see the images: {setting}"] = [(["CKA", *names], lines)]
    parts = [f"## {name}\n\n{markdown_table(*table)}" for name, tables in sections.items() for table in tables]
    text = "\n\n".join([NOTE, *parts])
    (folder / "comparison.md").write_text(text + "\n")
    (folder / "comparison.tex").write_text(
        "\n\n".join(f"% {name}\n{latex_table(t)}" for name, ts in sections.items() for t in ts) + "\n"
    )
    write_csv(rows, folder / "comparison.csv")
    found = [(gain.mean, method) for method in merges_of(rows) if (gain := gains(rows, method)) is not None]
    pictures = draw_all(rows, folder / "pictures", max(found)[1] if found else BEST_SOURCE)
    page = render_page(title, page_sections(sections, pictures), NOTE, bold=OURS)
    (folder / "comparison.html").write_text(page)
    return text
