"""One line about a whole run: how far it is, what is being done, how long it still takes.

On a terminal it is rewritten in its place, with what else is printed above it; in a log file it is a plain line at the
end of each stage.
"""

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from .options import STAGES
from .settings import Settings


logger = logging.getLogger(__name__)

Clock = Callable[[], float]

OFTEN = 0.2  # seconds between two looks of the line on a terminal

TITLES = {"merge": "merge stage", "finetune": "fine-tuning"}


def in_words(seconds: float) -> str:
    """How long something takes, as coarse as it is known.

    Example:
        >>> [in_words(seconds) for seconds in (0.4, 70, 900, 12_000, 200_000)]
        ['1 s', '70 s', '15 min', '3 h 20 min', '2 d 7 h']
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 36 else f"{hours // 24} d {hours % 24} h"


class Line:
    """The line itself.

    Args:
        live: rewrites a text on a terminal; `None` where there is none.
        clock: seconds that pass.
    """

    def __init__(self, live: Callable[[str], None] | None = None, clock: Clock = time.monotonic) -> None:
        self.live, self.clock, self._shown = live, clock, -math.inf

    def show(self, text: str) -> None:
        """How it stands; not in a log file, and on a terminal not more often than anybody reads."""
        now = self.clock()
        if self.live is not None and now - self._shown >= OFTEN:
            self._shown = now
            self.live(text)

    def note(self, text: str) -> None:
        """Something has ended: a plain line in a log file, on a terminal at once in its place."""
        if self.live is None:
            logger.warning(text)
        else:
            self.live(text)


@contextmanager
def open_line(quiet: bool = False) -> Iterator[Line]:
    """The line of this process, on standard error; gone from a terminal at the end.

    Args:
        quiet: plain lines on a terminal too.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield Line()
        return
    before = sys.stderr
    with ExitStack() as stack:
        live = stack.enter_context(Live(Text(), console=console, auto_refresh=False, transient=True))
        # They hold the terminal itself and would write into the line.
        for handler in (*logging.root.handlers, *logging.getLogger("transformers").handlers):
            if isinstance(handler, logging.StreamHandler) and handler.stream is before:
                handler.setStream(sys.stderr)
                stack.callback(handler.setStream, before)
        yield Line(lambda text: live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True))


class RunProgress:
    """How far a run is, all its stages together.

    Args:
        stages: title -> optimizer steps, in their order.
        line: where it is said.
    """

    def __init__(self, stages: Mapping[str, int], line: Line) -> None:
        self.stages, self.line = dict(stages), line
        self.title, self.step, self.figures = "", 0, ""
        self._taken, self._since = 0, line.clock()

    def begin(self, title: str, step: int, steps: int) -> None:
        """A stage begins.

        Args:
            title: which.
            step: where, if it goes on from a checkpoint.
            steps: that it has.
        """
        if not self._taken:
            self._since = self.line.clock()
        self.title, self.step, self.stages[title], self.figures = title, step, steps, ""
        self.line.show(self.text)

    def advance(self, step: int, figures: str = "") -> None:
        """A step is done."""
        self._taken += max(0, step - self.step)
        self.step, self.figures = step, figures or self.figures
        self.line.show(self.text)

    def end(self) -> None:
        """The stage has ended, early or not."""
        self.stages[self.title] = self.step
        self.line.note(self.text)

    @property
    def seconds_left(self) -> float | None:
        """What steps took so far, for those that are left; `None` before the first."""
        later = list(self.stages)[list(self.stages).index(self.title) + 1 :]
        left = self.stages[self.title] - self.step + sum(self.stages[title] for title in later)
        return left * (self.line.clock() - self._since) / self._taken if self._taken else None

    @property
    def text(self) -> str:
        """The line.

        Example:
            >>> progress = RunProgress({"merge stage": 10, "fine-tuning": 20}, Line(clock=lambda: 0.0))
            >>> progress.begin("merge stage", 0, 10)
            >>> progress.text
            'stage 1 of 2, merge stage: step 0 of 10, 30 left in all'
        """
        place = list(self.stages).index(self.title)
        left = sum(list(self.stages.values())[place:]) - self.step
        told = f"stage {place + 1} of {len(self.stages)}, {self.title}: step {self.step} of {self.stages[self.title]}"
        told += f" ({self.figures})" if self.figures else ""
        told += f", {left} left in all" if left else ""
        return told if not left or (s := self.seconds_left) is None else f"{told}, about {in_words(s)} to go"


class ProgressOfStage(TrainerCallback):
    """Tells a trainer's steps to the progress of its run, in the place of the trainer's own bars.

    Args:
        progress: of the run.
        folder: of the run.
    """

    def __init__(self, progress: RunProgress, folder: str) -> None:
        self.progress, self.folder = progress, Path(folder)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Which stage it is, its folder says."""
        title = stage_title(Path(args.output_dir).relative_to(self.folder))
        self.progress.begin(title, state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One more."""
        self.progress.advance(state.global_step)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """The figure that the best model is chosen by."""
        if state.is_local_process_zero and "eval_macro_f1" in (metrics or {}):
            self.progress.advance(state.global_step, f"macro F1 {metrics['eval_macro_f1']:.3f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Perhaps before its last step."""
        self.progress.end()


def stage_title(folder: Path) -> str:
    """What a stage is called, by its folder below that of the run.

    Example:
        >>> stage_title(Path("merge")), stage_title(Path("alone/0/finetune"))
        ('merge stage', 'source 1 alone, fine-tuning')
    """
    *above, stage = folder.parts
    named = TITLES[stage] if not above or stage != "merge" else "head"
    return f"source {int(above[-1]) + 1} alone, {named}" if above else named


def planned_stages(settings: Settings, images: int) -> dict[str, int]:
    """Every stage of a run and its optimizer steps.

    Args:
        settings: of the run.
        images: for training.
    """
    steps = {stage: stage_steps(getattr(settings, stage), images) for stage in STAGES}
    merge = {stage_title(Path(stage)): steps[stage] for stage in STAGES}
    places = range(len(settings.source.sources))
    if settings.run.method == "auto":  # every source first, as long as both stages
        return {stage_title(Path(f"teachers/{place}/finetune")): sum(steps.values()) for place in places} | merge
    alone = [Path(f"alone/{place}/{stage}") for place in places for stage in STAGES] * settings.run.sources_alone
    return merge | {stage_title(folder): steps[folder.name] for folder in alone}


def stage_steps(args: Any, images: int) -> int:
    """How often the optimizer steps in a stage, as `Trainer` counts.

    Args:
        args: `TrainingArguments`.
        images: for training.
    """
    if args.max_steps > 0:
        return args.max_steps
    batches = math.ceil(images / (args.train_batch_size * args.world_size))
    return math.ceil(args.num_train_epochs * max(1, math.ceil(batches / args.gradient_accumulation_steps)))


FOLLOWED: ContextVar[tuple[RunProgress, str] | None] = ContextVar("FOLLOWED", default=None)


@contextmanager
def followed(settings: Settings, images: int) -> Iterator[None]:
    """Whatever is trained in here below the run's folder is told by one line of the main process.

    Args:
        settings: of the run.
        images: for training.
    """
    if settings.merge.process_index != 0:
        yield
        return
    with open_line(quiet=settings.merge.disable_tqdm) as line:
        mark = FOLLOWED.set((RunProgress(planned_stages(settings, images), line), settings.run.output_dir))
        try:
            yield
        finally:
            FOLLOWED.reset(mark)


def follow(trainer: Trainer) -> None:
    """Let the line of the run, if there is one, tell how far a trainer is.

    On a terminal it takes the place of the trainer's bars and of what they print; in a log file what is logged stays.
    """
    if (found := FOLLOWED.get()) is None:
        return
    progress, folder = found
    trainer.add_callback(ProgressOfStage(progress, folder))
    if trainer.pop_callback(ProgressCallback) is not None and progress.line.live is None:
        trainer.add_callback(PrinterCallback)
