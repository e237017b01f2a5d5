"""One file a format: what recognises it (first bytes, not the suffix) and how its tensors are read, running nothing.

It knows files and libraries, and never imports what chooses a source, or conversion. A new format is one new file.
"""
