import io
import logging

import pytest
from rich.console import Console
from torch import nn
from transformers import Trainer, TrainingArguments

from medmerge_hf.runs import progress as module
from medmerge_hf.runs.progress import Line, RunProgress, open_line, stage_steps


class Clock:
    """Seconds that pass when they are told to."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_steps_that_are_left_take_as_long_as_those_before(clock):
    shown = []
    run = RunProgress({"merge stage": 10, "fine-tuning": 20}, Line(shown.append, clock))
    clock.now = 100  # reading the data is no step
    run.begin("merge stage", 4, 10)  # resumed
    assert run.seconds_left is None
    clock.now += 6
    run.advance(7, "macro F1 0.500")
    assert run.seconds_left == (3 + 20) * 2
    assert shown[-1] == "stage 1 of 2, merge stage: step 7 of 10 (macro F1 0.500), 23 left in all, about 46 s to go"
    run.end()  # stopped early: the other three steps never come
    assert shown[-1] == "stage 1 of 2, merge stage: step 7 of 7 (macro F1 0.500), 20 left in all, about 40 s to go"
    run.begin("fine-tuning", 0, 20)
    for step in range(1, 21):
        clock.now += 2
        run.advance(step)
    run.end()
    assert shown[-1] == "stage 2 of 2, fine-tuning: step 20 of 20"


def test_a_stage_that_a_resumed_run_does_not_train_again_is_not_waited_for(clock):
    run = RunProgress({"merge stage": 10, "fine-tuning": 20}, Line(clock=clock))
    run.begin("fine-tuning", 18, 20)
    clock.now += 3
    run.advance(19)
    assert run.text == "stage 2 of 2, fine-tuning: step 19 of 20, 1 left in all, about 3 s to go"


def test_a_terminal_is_not_written_to_more_often_than_anybody_reads(clock):
    shown = []
    line = Line(shown.append, clock)
    for _ in range(1000):
        clock.now += 0.01
        line.show("how it stands")
    assert 40 <= len(shown) <= 51
    line.note("ended")
    assert shown[-1] == "ended"


def test_a_log_file_gets_a_line_a_stage(clock, caplog):
    run = RunProgress({"merge stage": 300, "fine-tuning": 300}, Line(clock=clock))
    for title in run.stages:
        run.begin(title, 0, 300)
        for step in range(300):
            clock.now += 1
            run.advance(step + 1)
        run.end()
    assert [record.getMessage() for record in caplog.records] == [
        "stage 1 of 2, merge stage: step 300 of 300, 300 left in all, about 5 min to go",
        "stage 2 of 2, fine-tuning: step 300 of 300",
    ]


def test_what_is_logged_stands_above_the_line_of_a_terminal(monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr("rich.console.Console", lambda **_: Console(file=file, force_terminal=True, width=60))
    handler = logging.StreamHandler(module.sys.stderr)
    monkeypatch.setattr(logging.root, "handlers", [handler])
    with open_line() as line:
        line.note("one")
        logging.getLogger("x").warning("a word")
        print("another")
        line.note("two" * 100)
    assert handler.stream is module.sys.stderr
    written = file.getvalue()
    assert written.index("one") < written.index("a word") < written.index("another") < written.index("twotwo")
    assert "two" * 21 not in written  # it never breaks into a second line


@pytest.mark.parametrize(("batch", "parts", "epochs"), [(3, 1, 2), (4, 3, 0.5), (50, 2, 2), (4, 2, 1.5)])
def test_steps_are_counted_as_trainer_does(batch, parts, epochs, tmp_path):
    args = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=batch, gradient_accumulation_steps=parts, num_train_epochs=epochs
    )
    trainer = Trainer(nn.Linear(1, 1), args, train_dataset=[{"x": 0}] * 17)
    *_, steps = trainer.set_initial_training_values(args, trainer.get_train_dataloader())
    assert stage_steps(args, 17) == steps
