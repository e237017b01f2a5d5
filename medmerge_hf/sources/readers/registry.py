"""Which reader reads what: each file of this folder registers its own."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import Protocol

from ...errors import CorruptSourceError
from ..place import Place, foreign_kind
from ..reference import LoadedSource, SourceReference


class Reader(Protocol):
    """What reads a place.

    Args:
        place: where the source lies.
        reference: what the user said of it.
        weights: `False` reads names, shapes and dtypes alone: tensors on the meta device.

    Returns:
        Its tensors and what is known of the network.
    """

    def __call__(self, place: Place, reference: SourceReference, weights: bool) -> LoadedSource:
        """Read."""


@dataclasses.dataclass(frozen=True)
class Format:
    """A registered reader.

    Args:
        name: how errors and `medmerge inspect` call the format.
        recognises: whether a place holds it.
        read: the reader.
        suffixes: that such files usually have, to tell a missing file from a name on the Hub.
    """

    name: str
    recognises: Callable[[Place], bool]
    read: Reader
    suffixes: tuple[str, ...] = ()


_FORMATS: list[Format] = []


def reader(
    name: str, recognises: Callable[[Place], bool], suffixes: tuple[str, ...] = ()
) -> Callable[[Reader], Reader]:
    """Register a function as the [`Reader`] of a [`Format`]; arguments as there. No two may recognise one place."""

    def register(read: Reader) -> Reader:
        _FORMATS.append(Format(name, recognises, read, suffixes))
        return read

    return register


@cache
def formats() -> tuple[Format, ...]:
    """All formats, in the order of their files' names."""
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")
    return tuple(_FORMATS)


def find_format(place: Place) -> Format:
    """The format of what lies at a place.

    Raises:
        CorruptSourceError: nobody reads it; the message says what it is, and the way out.
    """
    found = next((known for known in formats() if known.recognises(place)), None)
    foreign = None if found else foreign_kind(place)
    # What begins like nothing known is read as what its name says: that reader tells what is wrong with it.
    found = found or next((f for f in formats() if not foreign and place.path.name.endswith(f.suffixes or "/")), None)
    if found is not None:
        return found
    what, way_out = foreign or (
        f"a file of unknown format (it begins with {place.start[:8]!r})",
        f"Known are {', '.join(known.name for known in formats())}. If it should be one of these, it is damaged.",
    )
    raise CorruptSourceError(f"Source {str(place.path)!r} is {what}. {way_out}")


def read_place(place: Place, reference: SourceReference, weights: bool = True) -> LoadedSource:
    """Read what lies at a place, whatever its format; arguments as of a [`Reader`]."""
    return find_format(place).read(place, reference, weights)
