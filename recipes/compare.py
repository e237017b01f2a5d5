"""MedMerge against what you would do instead, with one budget: `medmerge compare` for a clone.

python recipes/compare.py CONFIG.yaml --seeds 0 1 2 3 4
"""

from medmerge_hf.comparison.compare import main


if __name__ == "__main__":
    main()
