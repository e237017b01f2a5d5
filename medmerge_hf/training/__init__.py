"""`Trainer` for both stages: arguments, losses, checkpoints that hold kernel weights.

It never imports runs or comparison.
"""
