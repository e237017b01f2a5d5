"""An ordinary timm or transformers network: built, split into backbone and head, run, and what images it takes.

It never imports sources, merging or data.
"""
