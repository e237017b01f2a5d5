"""How far a comparison is: runs that are kept, running and left, and the time that similar runs took."""

import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from accelerate.state import PartialState

from ..runs.progress import Line, in_words, open_line
from .plan import Plan


class Progress:
    """Of all runs of a plan.

    Args:
        plan: of the comparison.
        line: where it is said.
        workers: processes that run at the same time.
    """

    def __init__(self, plan: Plan, line: Line, workers: int = 1) -> None:
        self.plan, self.line, self.workers = plan, line, workers
        self.runs = {plan.runs.place(key): (key, kind) for key, kind in planned_runs(plan)}
        self.took: dict[Any, float] = {}
        self.running: Sequence[str] = ()

    def begin(self, what: str) -> None:
        """A run begins in this process."""
        self.running = [what]
        self.line.show(self.text())

    def end(self) -> None:
        """It is kept now."""
        self.running = ()
        self.line.note(self.text())

    def look(self, running: int) -> None:
        """See what other processes have done meanwhile.

        Args:
            running: how many of them run.
        """
        before = len(self.took)
        text = self.text(running)
        (self.line.note if len(self.took) > before else self.line.show)(text)

    def text(self, running: int | None = None) -> str:
        """The line.

        Args:
            running: how many run; those that began in this process by default.
        """
        for place, (key, _) in self.runs.items():
            if place not in self.took and self.plan.runs.has(key):
                self.took[place] = self.plan.runs.seconds(key)
        running = len(self.running) if running is None else running
        left = len(self.runs) - len(self.took)
        told = f"{len(self.took)} of {len(self.runs)} runs done"
        told += f", {running} running" if running else ""
        told += f" ({'; '.join(self.running)})" if self.running else ""
        told += f", {left - running} left" if left > running else ""
        seconds = self.seconds_left()
        return told if not left or seconds is None else f"{told}, about {in_words(seconds)} to go"

    def seconds_left(self) -> float | None:
        """What kept runs of the same method and target took; else of the same method, else all; `None` without any."""
        kept = [(self.runs[place][1], seconds) for place, seconds in self.took.items()]
        similar: Mapping[Any, list[float]] = defaultdict(list)
        for (method, target), seconds in kept:
            for kind in ((method, target), method, None):
                similar[kind].append(seconds)
        if not similar:
            return None
        missing = [kind for place, (_, kind) in self.runs.items() if place not in self.took]
        kinds = [next(k for k in ((method, target), method, None) if k in similar) for method, target in missing]
        return sum(statistics.fmean(similar[kind]) for kind in kinds) / min(self.workers, max(1, len(missing)))


def planned_runs(plan: Plan) -> Iterator[tuple[dict[str, Any], tuple[str, str]]]:
    """Key, and method and target, of every run; runs that settings share come several times."""
    for setting in plan.settings:
        for seed in plan.seeds:
            for source in setting.sources():
                for name in setting.ways:
                    yield plan.key(setting, name, seed, source), (name, setting.target)
            for name in setting.methods:
                yield plan.key(setting, name, seed), (name, setting.target)


@contextmanager
def progress_of(plan: Plan, workers: int | None = None) -> Iterator[Progress | None]:
    """The line of a comparison, in the main process; `None` in others.

    Args:
        plan: of the comparison.
        workers: processes that run at the same time.
    """
    if not PartialState().is_main_process:
        yield None
        return
    with open_line() as line:
        yield Progress(plan, line, workers or 1)
