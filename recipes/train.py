"""Merge sources for a target data set, fine-tune the merge, export it: `medmerge train` for a clone.

    accelerate launch recipes/train.py CONFIG.yaml [--option value ...] [--merge.option value ...]
    python recipes/train.py --help

CONFIG.yaml is one of recipes/configs/, or yours.
"""

import sys

from medmerge_hf.cli import main


if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
