"""Figures of predictions: metrics, bootstrap, ranking of sources, tables, pictures and pages of several rooms.

It never imports the model or training.
"""
