"""What the trainers of a run logged, kept in the folder of each stage: it outlives their checkpoints."""

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from .options import STAGES
from .progress import stage_title
from .run_folder import write_json


HISTORY = "history.json"


class LogWithEvaluation(TrainerCallback):
    """Logs the training loss wherever a trainer evaluates or saves, too.

    A loss is the mean of the steps since the one before, and a checkpoint forgets those that are not logged yet: a run
    that went on from it would have another history than one that was never stopped.
    """

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Strategies that count steps."""
        control.should_log |= control.should_evaluate or control.should_save

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Strategies that count epochs."""
        control.should_log |= control.should_evaluate or control.should_save


def keep_history(trainer: Any) -> None:
    """Leave what a trainer logged in the folder of its stage."""
    if trainer.args.should_save:
        write_json(Path(trainer.args.output_dir) / HISTORY, trainer.state.log_history)


def read_histories(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What was logged in each stage of a run: its title -> entries of a `Trainer`'s history.

    Args:
        folder: of the run.
    """
    files = [*(folder / stage / HISTORY for stage in STAGES), *sorted(folder.glob(f"teachers/*/finetune/{HISTORY}"))]
    titles = {file: stage_title(file.parent.relative_to(folder)) for file in files if file.is_file()}
    return {f"{title[0].upper()}{title[1:]}": json.loads(file.read_text()) for file, title in titles.items()}
