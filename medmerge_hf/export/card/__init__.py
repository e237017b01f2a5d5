"""The model card and what it is made of: the record of what was done, licences, a snippet, a picture.

It writes text and pictures, and never imports the folder that they go into.
"""
