"""MedMerge against what you would do instead, with one budget: `medmerge compare` for a clone.

    python recipes/compare.py CONFIG.yaml --seeds 0 1 2 3 4 [--workers 2] [--trials 1] [--option value ...]
    accelerate launch recipes/compare.py CONFIG.yaml ...

CONFIG.yaml is one of recipes/configs/ with a section `compare`, or yours.
"""

import sys

from medmerge_hf.cli import main


if __name__ == "__main__":
    main(["compare", *sys.argv[1:]])
