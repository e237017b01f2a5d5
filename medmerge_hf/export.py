"""The folder of a collapsed model: what timm and transformers read, and beside it the small merge state."""

import copy
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from .blending import KernelWeights, blend
from .configuration_medmerge import MedMergeConfig
from .errors import ExportError
from .networks import backbone_prefix


logger = logging.getLogger(__name__)

# In a folder of its own: timm up to 1.0.27 does not read a folder with two safetensors files at its top.
MERGE_CONFIG = "medmerge/config.json"
MERGE_STATE = "medmerge/state.safetensors"
TIMM_PREFIX = "timm_model."
KERNEL_WEIGHTS = "merge.source_bias"


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
        for file in sorted(file for file in staging.rglob("*") if file.is_file()):
            target = destination / file.relative_to(staging)
            target.parent.mkdir(exist_ok=True)
            os.replace(file, target)
        return
    umask = os.umask(0)
    os.umask(umask)
    staging.chmod(0o777 & ~umask)  # mkdtemp makes it private
    os.replace(staging, destination)


@torch.no_grad()
def plain_copy(network: Any, merge: KernelWeights | None, state_dict: Mapping[str, Tensor]) -> Any:
    """A copy of a network on the CPU that holds the merge of a state dict.

    The live parameters are not read: a trainer may have gathered the state dict from several processes.

    Args:
        network: the plain network of a model.
        merge: its kernel weights, while it is merging.
        state_dict: of the model, in either state.

    Returns:
        A plain classifier, all parameters learning.
    """
    tensors = {name.removeprefix("network."): t for name, t in state_dict.items() if name.startswith("network.")}
    if merge is not None:
        prefix = backbone_prefix(network)
        for index, (name, weight) in enumerate(merge.split(state_dict[KERNEL_WEIGHTS].cpu()).items()):
            stack = [state_dict[f"merge.differences.{source}.{index}"].cpu() for source in range(len(weight))]
            tensors[prefix + name] = blend(tensors[prefix + name].cpu(), weight, stack)
    plain = copy.deepcopy(network).cpu().requires_grad_(True)
    plain.load_state_dict(tensors)
    return plain


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
        # timm's own names: transformers only restores them for a network that from_pretrained made.
        tensors = {name.removeprefix(TIMM_PREFIX): tensor for name, tensor in network.state_dict().items()}
        network.save_pretrained(folder, state_dict=tensors, **kwargs)
        save_processor(processor, folder)
        verify_export(network, folder)


def save_processor(processor: Any, folder: Path) -> None:
    """Write the image processor of a transformers-native network; timm's lies in config.json."""
    if processor is not None and not hasattr(processor, "data_config"):
        processor.save_pretrained(folder)


def save_merge_state(state: dict[str, Tensor], config: MedMergeConfig, folder: Path) -> None:
    """Write what made the merge, and kernel weights, head and statistics as its merge stage ended."""
    (folder / MERGE_STATE).parent.mkdir()
    config.to_json_file(folder / MERGE_CONFIG)
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
        raise ExportError(
            f"The export computes other logits (by {(logits - again).abs().max():.2g}); nothing was saved."
        )


def _input_shape(network: Any) -> tuple[int, ...]:
    cfg = getattr(network.config, "pretrained_cfg", None) or {}
    if "input_size" in cfg:
        return tuple(cfg["input_size"])
    size = getattr(network.config, "image_size", None) or 64
    size = size if isinstance(size, (tuple, list)) else (size, size)
    return (getattr(network.config, "num_channels", 3), *size)
