"""A source's tensors brought under the anchor's names, network and input, and verified by running both.

It never imports alignment or the model.
"""
