"""The other sources' channels permuted onto the anchor's: channel groups, rules an ATen operation, matching.

It never imports sources, conversion or the model.
"""
