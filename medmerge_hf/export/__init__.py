"""The folder of a collapsed model, the way back from it, its upload, its card and the record behind it.

It works on plain objects and never imports the model.
"""
