"""One reader a form of data. A module here with a `READER` is found by itself: a new form is a new file."""

import importlib
import pkgutil

from ...errors import DataError
from ..listing import Reader, Request


READERS: list[Reader] = sorted(
    (importlib.import_module(f"{__name__}.{module.name}").READER for module in pkgutil.iter_modules(__path__)),
    key=lambda reader: reader.rank,
)


def find_reader(request: Request) -> Reader:
    """The reader of what a user points at.

    Raises:
        DataError: no reader knows a file of this kind.
    """
    path = request.path
    if path.is_file():
        found = reader_of_file(path.name)
        if found is None:
            forms = ", ".join(suffix for reader in READERS for suffix in reader.suffixes)
            raise DataError(f"{str(path)!r} is a file that no reader knows: {forms} are read, or a folder of images.")
        return found
    if path.exists() and not path.is_dir():
        raise DataError(f"{str(path)!r} is neither a file nor a folder.")
    return next(reader for reader in READERS if reader.folder is not None and reader.folder(request))


def reader_of_file(name: str) -> Reader | None:
    """The reader of a file by its suffix."""
    return next((reader for reader in READERS if name.lower().endswith(reader.suffixes or "\0")), None)
