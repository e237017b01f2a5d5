"""What the site makes of docstrings: doctests are code, and names in brackets plain code."""

import re
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Griffe shows doctests as code only below `Examples`, and leaves the brackets of a name that it does not link."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the text of one object.

        Args:
            obj: a module, class, function or attribute.
            kwargs: not needed.
        """
        if obj.docstring:
            text = re.sub(r"^(\s*)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = re.sub(r"\[(`[^`]+`)\](?![\[(])", r"\1", text)
