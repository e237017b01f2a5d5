"""One HTML file with everything in it: what a run and a comparison show of themselves."""

import dataclasses
import re
from collections.abc import Sequence

from .drawing import Drawing


WIDE = 520  # pixels from which a picture keeps its size and is scrolled where the screen is narrower


@dataclasses.dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        caption: above it.
        header: of the columns.
        rows: their first cell names them.
        folded: opened by who wants to see it.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = False


@dataclasses.dataclass(frozen=True)
class Section:
    """What stands below one heading, in this order.

    Attributes:
        title: the heading.
        text: paragraphs.
        drawings: pictures.
        tables: tables; those without rows are left out.
        points: of a list.
        code: as it is.
    """

    title: str
    text: Sequence[str] = ()
    drawings: Sequence[Drawing] = ()
    tables: Sequence[Grid] = ()
    points: Sequence[str] = ()
    code: str = ""

    @property
    def anchor(self) -> str:
        """What a link within the page calls it."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-") or "section"


def render_page(title: str, sections: Sequence[Section], note: str = "", bold: str = "") -> str:
    """One HTML file that asks nothing of any other place.

    Args:
        title: of the page.
        sections: in their order.
        note: below the title.
        bold: rows whose first cell begins so are bold.

    Returns:
        The text; whatever stands in tables, names and captions is escaped.

    Example:
        >>> "<td>&lt;b&gt;</td>" in render_page("a", [Section("b", tables=[Grid("c", ["d", "e"], [["f", "<b>"]])])])
        True
    """
    from jinja2 import Environment, PackageLoader

    loader = PackageLoader(__package__, "templates")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    anchors = [f"{place}-{section.anchor}" for place, section in enumerate(sections, start=1)]
    template = environment.get_template("page.html.jinja")
    return template.render(
        title=title, note=note, bold=bold, wide=WIDE, sections=list(zip(anchors, sections, strict=True))
    )
