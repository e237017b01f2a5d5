"""Checkpoints of a run: marked while they are written, and the newest that was written to its end."""

import json
import logging
import shutil
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


logger = logging.getLogger(__name__)


STATE = "trainer_state.json"  # Trainer writes it last

UNFINISHED = "unfinished"  # stands in a checkpoint until all of it is written

PICKLED = ("optimizer.pt", "scheduler.pt")

WEIGHTS = ("model*.safetensors", "adapter_model*.safetensors")  # those of PEFT alone, where it holds the rest frozen

STATISTICS = "statistics.safetensors"

RUNNING = ("running_mean", "running_var", "num_batches_tracked")


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
    if not [file for name in WEIGHTS for file in folder.glob(name)]:
        problems.append("model.safetensors is missing")
    return problems + _cut_off(folder)


def _cut_off(folder: Path) -> list[str]:
    files = [*folder.glob("*"), *folder.glob("medmerge/*")]
    return [f"{file.name} is cut off" for file in sorted(files) if not _is_whole(file)]


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


def begin_checkpoint(folder: str | Path) -> None:
    """Mark a checkpoint that is going to be written; what an earlier one of this step says of itself is void.

    Args:
        folder: of the checkpoint; made if it is not there.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / UNFINISHED).touch()
    (folder / STATE).unlink(missing_ok=True)


def is_begun(folder: str | Path) -> bool:
    """Whether a checkpoint is being written there, or was when its process was killed."""
    return (Path(folder) / UNFINISHED).is_file()


def end_checkpoint(folder: str | Path, model: nn.Module) -> None:
    """Take the mark away.

    Args:
        folder: of the checkpoint.
        model: that it is one of. PEFT's hold no BatchNorm statistics, which go on moving: they are written beside.
    """
    if hasattr(model, "peft_config"):
        found = {name: buffer.contiguous() for name, buffer in model.named_buffers() if name.endswith(RUNNING)}
        save_file(found, Path(folder) / STATISTICS)
    (Path(folder) / UNFINISHED).unlink(missing_ok=True)


def discard_half_written(checkpoint: str | Path) -> None:
    """Remove later checkpoints beside one that a killed run left half-written; whatever else is there stays.

    Args:
        checkpoint: that the run goes on from.
    """
    for folder in _checkpoints(Path(checkpoint).parent):
        if folder.name == Path(checkpoint).name:
            break
        if is_begun(folder) and (not (folder / STATE).is_file() or _cut_off(folder)):
            shutil.rmtree(folder)


def _checkpoints(output_dir: str | Path) -> list[Path]:
    """Newest first."""
    found = {}
    for folder in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = folder.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if step.isdigit() and folder.is_dir():
            found[int(step)] = folder
    return [found[step] for step in sorted(found, reverse=True)]


@torch.no_grad()
def restore_statistics(model: nn.Module, folder: str | Path) -> None:
    """Put back BatchNorm statistics that [`end_checkpoint`] wrote, if it did.

    Args:
        model: of PEFT, or another that nothing is done to.
        folder: of the checkpoint.
    """
    if (file := Path(folder) / STATISTICS).is_file():
        saved = load_file(file)
        for name, buffer in model.named_buffers():
            if name in saved:
                buffer.copy_(saved[name])


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
