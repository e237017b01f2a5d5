"""Follow every link of the built site: to a file, to a place within a page, or to an address elsewhere.

python docs/links.py FOLDER
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


# Whoever links to another place adds it here, so that nobody links to one by mistake.
HOSTS = {"arxiv.org", "captum.ai", "pytorch.org", "squidfunk.github.io"}


class Page(HTMLParser):
    """Links of a page, and the places in it that a link can go to.

    Attributes:
        links: as they stand there, pictures and scripts included.
        places: ids.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect."""
        for name, value in attrs:
            if name in ("href", "src") and value and not value.startswith("data:"):
                self.links.append(value)
            elif name == "id" and value:
                self.places.add(value)


def wrong_address(link: str) -> str | None:
    """What is wrong with an address elsewhere.

    Args:
        link: with a scheme.

    Returns:
        `None` where it is https to a place that the site knows.

    Example:
        >>> wrong_address("https://arxiv.org/abs/2403.11646"), wrong_address("http://arxiv.org/")
        (None, 'not https')
    """
    found = urlsplit(link)
    if found.scheme != "https":
        return "not https"
    if re.search(r"\s|[<>\"`{}]|[.,)]$", link):
        return "not a whole address"
    return None if found.netloc in HOSTS else f"{found.netloc!r} is none of {', '.join(sorted(HOSTS))}"


def wrong_links(site: Path) -> list[str]:
    """Links that lead nowhere.

    Args:
        site: folder of HTML pages.

    Returns:
        A line each: the page, the link, and what is wrong with it.
    """
    pages = {file: Page(file.read_text()) for file in sorted(site.rglob("*.html"))}
    told = []
    for file, page in pages.items():
        for link in dict.fromkeys(page.links):
            elsewhere = urlsplit(link).scheme or link.startswith("//")
            if wrong := wrong_address(link) if elsewhere else _wrong_place(link, file, site, pages):
                told.append(f"{file.relative_to(site)}: {link}: {wrong}")
    return told


def _wrong_place(link: str, file: Path, site: Path, pages: dict[Path, Page]) -> str | None:
    found = urlsplit(link)
    path, place = unquote(found.path), unquote(found.fragment)
    target = site / path.lstrip("/") if path.startswith("/") else file.parent / path
    target = target.resolve() if path else file
    target = target / "index.html" if target.is_dir() else target
    if not target.is_file():
        return "there is no such file"
    if place and place not in pages[target].places:
        return f"nothing is called {place!r} there"
    return None


def main(site: Path) -> None:
    """Exit with 1 where a link leads nowhere.

    Args:
        site: folder of HTML pages.
    """
    if told := wrong_links(site):
        sys.exit("\n".join(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
