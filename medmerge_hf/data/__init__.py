"""Images and labels as their owner has them -> a checked `Target`: one reader a form, labels, splits, one gate.

Imports nothing of medmerge_hf but `errors`; nothing heavy before a name is used.
"""

import importlib
from typing import TYPE_CHECKING, Any


_NAMES = {"ImageDataset": "load", "Target": "load", "load_target": "load"}

if TYPE_CHECKING:
    from .load import ImageDataset as ImageDataset
    from .load import Target as Target
    from .load import load_target as load_target

__all__ = ["ImageDataset", "Target", "load_target"]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
