"""Rows of finished runs in; tables, pictures and one page out."""
