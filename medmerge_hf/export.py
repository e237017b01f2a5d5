"""The folder of a collapsed model: what timm and transformers read, and beside it the small merge state."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from .errors import ExportError


logger = logging.getLogger(__name__)

MERGE_CONFIG = "merge_config.json"
MERGE_STATE = "merge_state.safetensors"


@contextmanager
def staged_directory(destination: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder beside `destination` that takes its place when the block ends without an error.

    An error (a full disk, a failed check, a kill) leaves `destination` as it was. A new folder appears as a whole; in
    an existing one each file is replaced at once and foreign files stay.

    Args:
        destination: the folder to write.

    Yields:
        The folder to write into.
    """
    destination = Path(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{destination.name}-", dir=destination.parent))
    try:
        yield staging
        _move_into_place(staging, destination)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _move_into_place(staging: Path, destination: Path) -> None:
    if destination.is_dir() and any(destination.iterdir()):
        for file in sorted(staging.iterdir()):
            os.replace(file, destination / file.name)
        return
    umask = os.umask(0)
    os.umask(umask)
    staging.chmod(0o777 & ~umask)  # mkdtemp makes it private
    os.replace(staging, destination)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Saving and reading back take a second: bars would only tear up the trainer's own."""
    from transformers.utils import logging as hf_logging

    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def export_network(network: Any, processor: Any, folder: Path, **kwargs: Any) -> None:
    """Write a plain network and its image processor, read it back, and compare.

    Args:
        network: a timm-wrapper or transformers classifier on the CPU.
        processor: its image processor (timm's is part of config.json).
        folder: an empty folder.
        kwargs: of `PreTrainedModel.save_pretrained`, e.g. `max_shard_size`.

    Raises:
        ExportError: what was written is not what is in memory, or not finite.
    """
    with no_progress_bars():
        network.save_pretrained(folder, **kwargs)
        save_processor(processor, folder)
        verify_export(network, folder)


def save_processor(processor: Any, folder: Path) -> None:
    """Write the image processor of a transformers-native network; timm's lies in config.json."""
    if processor is not None and not hasattr(processor, "data_config"):
        processor.save_pretrained(folder)


def save_merge_state(state: dict[str, torch.Tensor], folder: Path) -> None:
    """Write kernel weights, head and BatchNorm statistics of the end of the merge stage."""
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / MERGE_STATE)


@torch.no_grad()
def verify_export(network: Any, folder: Path) -> None:
    """Read an export back and compare it with the network that was saved.

    Args:
        network: the network in memory, on the CPU.
        folder: the export.

    Raises:
        ExportError: tensors are missing, left over, changed or not finite, or the logits differ.
    """
    from transformers import AutoModelForImageClassification

    expected = network.state_dict()
    for name, tensor in expected.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ExportError(f"{name} holds NaN or infinity; nothing was saved. Lower the learning rates.")
    reloaded, info = AutoModelForImageClassification.from_pretrained(
        folder, output_loading_info=True, dtype=network.dtype
    )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[problem]:
            raise ExportError(f"The export reads back with {problem}: {sorted(info[problem])[:4]}; nothing was saved.")
    changed = [name for name, tensor in reloaded.state_dict().items() if not torch.equal(tensor, expected[name])]
    if changed:
        raise ExportError(f"{changed[0]} reads back with other values; nothing was saved.")
    images = torch.rand(1, *_input_shape(network), dtype=network.dtype)
    was_training = network.training
    logits, again = network.eval()(images).logits, reloaded.eval()(images).logits
    network.train(was_training)
    if not torch.allclose(logits, again, rtol=1e-4, atol=1e-5):
        raise ExportError(f"The export computes other logits (by {(logits - again).abs().max():.2g}); nothing was saved.")


def _input_shape(network: Any) -> tuple[int, ...]:
    cfg = getattr(network.config, "pretrained_cfg", None) or {}
    if "input_size" in cfg:
        return tuple(cfg["input_size"])
    size = getattr(network.config, "image_size", None) or 64
    size = size if isinstance(size, (tuple, list)) else (size, size)
    return (getattr(network.config, "num_channels", 3), *size)
