"""A run from its config: options checked once, run folder, two stages, export.

It never imports comparison; `recipes/train.py` and the command line call it.
"""
