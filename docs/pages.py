"""Lay out what the documentation site is made of, so that links between README, docs and benchmarks hold.

python docs/pages.py FOLDER
"""

import base64
import json
import shutil
import sys
from pathlib import Path
from typing import Any


ROOT = Path(__file__).resolve().parents[1]

# Pages and what they show; tests, scripts and raw figures stay out.
PAGES = ("*.md", "docs/*.md", "docs/api/*.md", "benchmarks/*.md")
FIGURES = ("benchmarks/*.png", "benchmarks/*.csv", "benchmarks/*/*.png", "benchmarks/*/*.csv")
PATTERNS = (*PAGES, *FIGURES, "docs/*.ipynb", "docs/site.*")


def main(folder: Path) -> None:
    """Copy the pages below a folder, as they lie in the repository.

    Args:
        folder: replaced as a whole.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for pattern in PATTERNS:
        for file in ROOT.glob(pattern):
            place = folder / file.relative_to(ROOT)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)
    for page in folder.rglob("*.md"):
        page.write_text(page.read_text().replace(".ipynb)", ".md)"))
    for file in ROOT.glob("docs/*.ipynb"):
        place = folder / file.relative_to(ROOT).with_suffix(".md")
        place.write_text(notebook_page(json.loads(file.read_text()), place))


def notebook_page(notebook: Any, place: Path) -> str:
    """A notebook as Markdown, with the outputs that are stored in it.

    Args:
        notebook: its JSON.
        place: of the page; pictures are written beside it, and are called what the metadata `alt` of their cell says.

    Returns:
        The text.
    """
    parts = []
    for number, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                picture = place.with_name(f"{place.stem}_{number}.png")
                picture.write_bytes(base64.b64decode("".join(data["image/png"])))
                parts.append(f"![{cell['metadata']['alt']}]({picture.name})")
            elif text := "".join(output.get("text", data.get("text/plain", ""))).rstrip():
                parts.append(text if text.startswith("| ") else f"```text\n{text}\n```")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
