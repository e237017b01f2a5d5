"""Tables and pictures of a merge."""

import statistics
from collections.abc import Sequence


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
