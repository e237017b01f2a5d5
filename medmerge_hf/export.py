"""The folder of a collapsed model (what timm and transformers read, the merge state, the card), and its upload."""

import copy
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from .analysis import kernel_table, stage_statistics
from .blending import KernelWeights, blend
from .configuration_medmerge import MedMergeConfig
from .errors import ExportError, SettingsError
from .hub import commit_export, ensure_repository, export_files
from .model_card import CARD, FIGURE, TAGS, render_card, source_licenses
from .networks import backbone_prefix, input_shape
from .provenance import source_name
from .report import plot_kernel_weights


logger = logging.getLogger(__name__)

LOGIT_TOLERANCE = 1e-6

# In a folder of its own: timm up to 1.0.27 does not read a folder with two safetensors files at its top.
MERGE_CONFIG = "medmerge/config.json"
MERGE_STATE = "medmerge/state.safetensors"
TIMM_PREFIX = "timm_model."
KERNEL_WEIGHTS = "merge.source_bias"
PERMUTATION = "merge.permutation"


@contextmanager
def staged_directory(destination: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder beside `destination` that takes its place when the block ends without an error.

    An error (a full disk, a failed check, a kill) leaves `destination` as it was. A new folder appears as a whole; in
    an existing one each file is replaced at once, what is left of an earlier export goes and foreign files stay.

    Args:
        destination: the folder to write.

    Yields:
        The folder to write into.
    """
    destination = Path(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    for left in destination.parent.glob(f".{destination.name}-*"):
        if re.fullmatch(rf"\.{re.escape(destination.name)}-\w{{8}}\.staging", left.name):
            shutil.rmtree(left)  # of a run that was killed in here
    staging = Path(tempfile.mkdtemp(".staging", f".{destination.name}-", destination.parent))
    try:
        yield staging
        _move_into_place(staging, destination)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _move_into_place(staging: Path, destination: Path) -> None:
    if destination.is_dir() and any(destination.iterdir()):
        new = [file.relative_to(staging) for file in sorted(staging.rglob("*")) if file.is_file()]
        for path in new:
            (destination / path).parent.mkdir(exist_ok=True)
            os.replace(staging / path, destination / path)
        for stale in set(export_files(destination)) - {path.as_posix() for path in new} - {CARD}:
            (destination / stale).unlink()
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
        learned = state_dict[KERNEL_WEIGHTS].cpu()
        for index, (name, weight) in enumerate(merge.split(learned).items()):
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


def export_dtype(dtype: "torch.dtype | str") -> torch.dtype:
    """A dtype that exports are written in, from itself or its name.

    Raises:
        SettingsError: it is none of them.

    Example:
        >>> export_dtype("bfloat16")
        torch.bfloat16
    """
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in (torch.float32, torch.bfloat16, torch.float16):
        raise SettingsError(f"dtype={dtype!r} is not one of float32, bfloat16, float16.")
    return found


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


def save_merge_state(
    state: dict[str, Tensor], config: MedMergeConfig, layout: KernelWeights | None, folder: Path
) -> None:
    """Write what made the merge, and kernel weights (with a picture), head and statistics as its merge stage ended.

    Args:
        state: the small state; empty for a model that is no merge.
        config: of the model; the kernel weights' figures are noted in it.
        layout: names and kernel shapes, where there is a state.
        folder: the export.
    """
    (folder / MERGE_CONFIG).parent.mkdir()
    if layout is not None:
        parameter = state[KERNEL_WEIGHTS]
        figures = {"kernel_weights": stage_statistics(layout, parameter), "kernels": parameter.shape[1]}
        config.record = {**config.record, **figures}
        names = [source_name(source) for source in config.sources]
        plot_kernel_weights(kernel_table(layout, parameter, names), folder / FIGURE)
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / MERGE_STATE)
    config.to_json_file(folder / MERGE_CONFIG)


def save_card(folder: Path, destination: Path) -> None:
    """Write the card of an export, unless it would replace one that somebody else wrote.

    Args:
        folder: the export, staged.
        destination: where it is going to be.
    """
    old = destination / CARD
    if old.is_file() and TAGS[0] not in old.read_text(errors="replace"):
        logger.warning("%s was not written by medmerge_hf and stays as it is.", old)
    else:
        (folder / CARD).write_text(render_card(MedMergeConfig.from_json_file(folder / MERGE_CONFIG), destination.name))


def push_export(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    tags: Sequence[str] | None = None,
    commit_message: str | None = None,
    **options: Any,
) -> Any:
    """Upload the export in a folder as one commit; what else lies there (checkpoints, pickles, notes) stays.

    The card is written anew under the repository's name. Paths of this machine are reduced to file names.

    Args:
        folder: an export.
        repo_id: see [`MedMergeModel.push_to_hub`], as all below.
        private: of a repository made here.
        tags: more of them for the card.
        commit_message: first line.
        options: of [`hub.commit_export`]: `revision`, `create_pr`, `token`, `commit_description`, `run_as_future`.

    Returns:
        `huggingface_hub.CommitInfo`, or a `Future` of it.
    """
    folder = Path(folder)
    branch = None if options.get("create_pr") else options.get("revision")
    repo_id = ensure_repository(repo_id, private=private, revision=branch, token=options.get("token"))
    config = MedMergeConfig.from_json_file(folder / MERGE_CONFIG)
    config.sources = [{**source, "id": source_name(source)} for source in config.sources]
    for warning in source_licenses(config)[1]:
        logger.warning("Licence of %s: %s", repo_id, warning)
    contents: dict[str, str | bytes] = {path: str(folder / path) for path in export_files(folder)}
    contents[CARD] = render_card(config, repo_id, tags or ()).encode()
    contents[MERGE_CONFIG] = config.to_json_string().encode()
    return commit_export(repo_id, contents, commit_message=commit_message or "Upload merged model", **options)


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
            way_out = "Export in bfloat16" if tensor.dtype == torch.float16 else "Lower the learning rates"
            raise ExportError(f"{name} holds NaN or infinity as {tensor.dtype}; nothing was saved. {way_out}.")
    reloaded, info = AutoModelForImageClassification.from_pretrained(
        folder, output_loading_info=True, dtype=network.dtype
    )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[problem]:
            raise ExportError(f"The export reads back with {problem}: {sorted(info[problem])[:4]}; nothing was saved.")
    changed = [name for name, tensor in reloaded.state_dict().items() if not torch.equal(tensor, expected[name])]
    if changed:
        raise ExportError(f"{changed[0]} reads back with other values; nothing was saved.")
    # In float64: in float32 the order of sums (a channels-last network has its own) can matter more than any mistake.
    ours, theirs = (copy.deepcopy(net).double().eval() for net in (network, reloaded))
    own = torch.Generator().manual_seed(0)  # a training that saves must not draw other numbers than one that does not
    images = torch.rand(1, *input_shape(network), dtype=torch.float64, generator=own)
    logits, again = ours(images).logits, theirs(images).logits
    difference, scale = float((logits - again).abs().max()), max(1.0, float(logits.abs().max()))
    if not difference < LOGIT_TOLERANCE * scale:
        raise ExportError(f"The export computes other logits (by {difference:.2g} of {scale:.2g}); nothing was saved.")
