"""Which checkpoint a run goes on from: the newest that was written to its end."""

import json
import logging
import shutil
import zipfile
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


logger = logging.getLogger(__name__)


STATE = "trainer_state.json"  # Trainer writes it last

PICKLED = ("optimizer.pt", "scheduler.pt")


def checkpoint_problems(checkpoint: str | Path) -> list[str]:
    """What a checkpoint of a `Trainer` lacks to be resumed from.

    Args:
        checkpoint: a `checkpoint-*` folder.

    Returns:
        A phrase for each file that is missing or was not written to its end; nothing if it is whole.
    """
    folder = Path(checkpoint)
    problems = [f"{name} is missing" for name in (STATE, *PICKLED) if not (folder / name).is_file()]
    if not list(folder.glob("rng_state*.pth")):
        problems.append("rng_state.pth is missing")
    if not list(folder.glob("model*.safetensors")):
        problems.append("model.safetensors is missing")
    problems += [f"{file.name} is cut off" for file in sorted(folder.glob("*")) if not _is_whole(file)]
    return problems


def _is_whole(file: Path) -> bool:
    """Whether a file ends where its own table of contents says."""
    from safetensors import SafetensorError, safe_open

    try:
        if file.suffix == ".safetensors":
            safe_open(file, "pt")
        elif file.suffix == ".json":
            json.loads(file.read_text())
        elif file.suffix in (".pt", ".pth"):
            return zipfile.is_zipfile(file)
    except (OSError, ValueError, SafetensorError):
        return False
    return True


def last_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest whole checkpoint of a run.

    Args:
        output_dir: of its `TrainingArguments`.

    Returns:
        The folder, or `None` where there is none.
    """
    for folder in _checkpoints(output_dir):
        problems = checkpoint_problems(folder)
        if not problems:
            return folder
        logger.warning("%s was not written to its end (%s): taking the one before.", folder, "; ".join(problems))
    return None


def discard_incomplete(output_dir: str | Path) -> None:
    """Remove what a killed run left half-written: newer checkpoints than the last whole one."""
    whole = last_checkpoint(output_dir)
    for folder in _checkpoints(output_dir):
        if folder == whole:
            break
        shutil.rmtree(folder)


def _checkpoints(output_dir: str | Path) -> list[Path]:
    """Newest first."""
    found = {}
    for folder in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = folder.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if step.isdigit() and folder.is_dir():
            found[int(step)] = folder
    return [found[step] for step in sorted(found, reverse=True)]


def stopped_early(checkpoint: str | Path) -> int | None:
    """The step at which early stopping had ended a run when this checkpoint was written, or `None`.

    `Trainer` forgets it: resumed, such a run would train on until the next evaluation.
    """
    state = json.loads((Path(checkpoint) / STATE).read_text())
    saved = state.get("stateful_callbacks", {}).get("EarlyStoppingCallback")
    callbacks = saved if isinstance(saved, list) else [saved] if saved else []
    for callback in callbacks:
        patience = callback["args"]["early_stopping_patience"]
        if callback["attributes"]["early_stopping_patience_counter"] >= patience:
            return state["global_step"]
    return None
