"""MedMerge against what a user would do instead: methods, plan, kept runs, report.

It never imports the command line.
"""
