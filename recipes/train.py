"""Merge sources for a target data set, fine-tune the merge, export it: `medmerge train` for a clone.

accelerate launch recipes/train.py CONFIG.yaml [--option value ...]
"""

from medmerge_hf.runs.train import main


if __name__ == "__main__":
    main()
