"""Lay out what the documentation site is made of, so that links between README, docs and benchmarks hold.

python docs/pages.py FOLDER
"""

import shutil
import sys
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]

# Pages and what they show; tests, scripts and raw figures stay out.
PAGES = ("*.md", "docs/*.md", "docs/api/*.md", "benchmarks/*.md")
PATTERNS = (*PAGES, "benchmarks/*.png", "benchmarks/*.csv", "benchmarks/comparison/*")


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


if __name__ == "__main__":
    main(Path(sys.argv[1]))
