"""Kernel weights, the blend of tensors, the network that computes with it, and tables of the weights.

It never imports sources, data or the model.
"""
