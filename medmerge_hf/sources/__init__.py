"""From a reference (Hub id, folder, file, module in memory) to a checkpoint's tensors as they lie.

It knows files, formats and the Hub, and never imports conversion or merging.
"""
