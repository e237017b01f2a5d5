"""What a method of a comparison is: a function from a job to its outcome, registered by its name.

All get the same data, transforms and steps. A budget is the epochs (or `max_steps`) of both stages together; what has
one stage gets them all in it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import SettingsError
from .job import Job
from .run_store import Outcome


OURS = "MedMerge"  # what the names of all its forms begin with

Run = TypeVar("Run", bound=Callable[..., Outcome])


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to a network for the target.

    Attributes:
        name: in configs, tables and the folder of kept runs.
        run: what it does.
        each: it takes each source alone, and every comparison has it; otherwise all sources, where a config says so.
        needs: methods that it starts from; it finds their outcomes in `job.earlier`: of those of a single source that
            of its own, or of every source where it takes all.
        options: name of a mapping in the config's section `compare` whose options are put on top of the run's.
        tries_rates: `--trials` lets it try learning rates; not where it takes trained networks as they are.
        predicts: its outcome is predictions, a row of the tables.
        usual: what is usually done with one source, for the row of the usual training.
        control: what a comparison with it tells, where it is a control of another method.
        of: that method.
    """

    name: str
    run: Callable[[Job], Outcome]
    each: bool = False
    needs: tuple[str, ...] = ()
    options: str = ""
    tries_rates: bool = True
    predicts: bool = True
    usual: bool = False
    control: str = ""
    of: str = ""


METHODS: dict[str, Method] = {}


def method(name: str, **about: Any) -> Callable[[Run], Run]:
    """Register a function as a method.

    Args:
        name: in configs and tables.
        about: what else a [`Method`] says of itself.

    Raises:
        SettingsError: another function has this name.
    """

    def register(run: Run) -> Run:
        found = METHODS.setdefault(name, Method(name, run, **about))
        if found.run is not run:
            raise SettingsError(
                f"Two methods are named {name!r}: {found.run.__module__}.{found.run.__qualname__} and "
                f"{run.__module__}.{run.__qualname__}. Give one of them another name."
            )
        return run

    return register


def of_each() -> list[Method]:
    """Methods that take one source."""
    return [method for method in METHODS.values() if method.each]


def of_all() -> list[Method]:
    """Methods that take all sources."""
    return [method for method in METHODS.values() if not method.each]


def check_needs() -> None:
    """Whether every method that another one needs is there.

    Raises:
        SettingsError: it is not, or it takes all sources and the other one.
    """
    for found in METHODS.values():
        known = {one.name for one in (of_each() if found.each else METHODS.values())}
        if missing := [need for need in found.needs if need not in known]:
            kind = "method of a single source" if found.each else "method"
            raise SettingsError(
                f"{found.name!r} needs {missing[0]!r}, which is no {kind}; there are {', '.join(sorted(known))}."
            )
