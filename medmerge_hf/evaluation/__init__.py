"""Figures of predictions: metrics, bootstrap, ranking of sources, tables that several rooms use.

It never imports the model or training.
"""
