"""The folder of a collapsed model (what timm and transformers read, the merge state, the card), and its upload."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..configuration_medmerge import MERGE_CONFIG, MedMergeConfig
from ..errors import SettingsError
from ..merging.kernel_table import block_statistics, kernel_table
from ..merging.kernel_weights import KERNEL_WEIGHTS, KernelWeights
from ..merging.merged_network import matching
from ..networks.backbone import backbone_module, backbone_parameters, is_timm, second_names
from ..networks.build import class_names
from ..networks.preprocessing import preprocessing_of
from ..networks.saved_network import no_progress_bars
from ..sources.reference import source_name
from .belonging import TENSORS_SHA256, tensors_sha256
from .card.kernel_plot import plot_kernel_weights
from .card.model_card import FIGURE, MERGED, TAGS, render_card
from .checkpoint import MERGE_STATE, save_processor, save_tensors
from .options import export_dtype, refuse_adapters, refuse_shards
from .staging import CARD, PAGE, replace_file, staged_directory
from .verification import verify_export


logger = logging.getLogger(__name__)


TIMM_PREFIX = "timm_model."

# In a record, what a network without kernel weights has not; its config may be that of a merge.
OF_MERGES = ("kernels", "kernel_weights", "tensors", "statistics")


def save_export(
    destination: Path,
    plain: Any,
    processor: Any,
    config: MedMergeConfig,
    state: dict[str, Tensor],
    layout: KernelWeights | None,
    dtype: "torch.dtype | str | None" = None,
    max_shard_size: int | str = "50GB",
) -> None:
    """Write a whole export: network, processor, merge state, card; all of it or nothing.

    Args:
        destination: the folder.
        plain: the collapsed network on the CPU.
        processor: its image processor.
        config: of the model; what the card needs is noted in it.
        state: the merge state; empty for a model that is no merge.
        layout: names and kernel shapes, where there is a state.
        dtype: of the exported weights; as they are by default.
        max_shard_size: of a weights file.

    Raises:
        ExportError: what was written is not what is in memory, or not finite.
        SettingsError: the classes' indices are not 0 to K - 1, or not each has a name of its own; or timm could not
            read the weights, since they are in several files.
    """
    names = class_names(config.id2label)
    if len(names) != len(plain.config.id2label):
        raise SettingsError(f"id2label names {len(names)} classes, the model has {len(plain.config.id2label)}.")
    plain.config.id2label, plain.config.label2id = names, {name: index for index, name in names.items()}
    with staged_directory(destination) as folder:
        export_network(plain if dtype is None else plain.to(export_dtype(dtype)), processor, folder, max_shard_size)
        figures = _figures(plain, processor, state, layout, config)
        kept = {name: value for name, value in config.record.items() if layout is not None or name not in OF_MERGES}
        config.record = {**kept, **figures, MERGED: layout is not None}
        save_merge_state(state, config, layout, folder)
        save_card(folder, destination)


def _figures(plain: Any, processor: Any, state: dict[str, Tensor], layout: Any, config: Any) -> dict[str, Any]:
    """What the card says of a network: its images, how much of it was merged, whose BatchNorm statistics it has."""
    found: dict[str, Any] = {}
    if processor is not None:
        pixels = preprocessing_of(processor)
        found = {"preprocessing": pixels.summary, "image_size": pixels.image_size}
    if layout is not None:
        tensors = {"merged": len(layout.names), "of": len(backbone_parameters(plain))}
        found["tensors"] = {**tensors, "frozen": len(matching(layout.names, config.freeze))}
        own = {f"network.{name}": tensor for name, tensor in plain.state_dict().items()}
        pairs = [(own[name], tensor) for name, tensor in state.items() if name.endswith("running_mean")]
        if pairs:
            kept = all(torch.equal(now.float(), before.float()) for now, before in pairs)
            found["statistics"] = "merge" if kept else "target"
    return found


def export_network(network: Any, processor: Any, folder: Path, max_shard_size: int | str = "50GB") -> None:
    """Write a plain network and its image processor, read it back, and compare.

    Args:
        network: a timm-wrapper or transformers classifier on the CPU.
        processor: its image processor (timm's is part of config.json).
        folder: an empty folder.
        max_shard_size: of a weights file.

    Raises:
        ExportError: what was written is not what is in memory, or not finite.
        SettingsError: the weights of a timm network are in several files, or a network carries adapters.
    """
    refuse_adapters(network)
    with no_progress_bars():
        # timm's own names: transformers only restores them for a network that from_pretrained made.
        tensors = {name.removeprefix(TIMM_PREFIX): tensor for name, tensor in network.state_dict().items()}
        if is_timm(network):  # which wants a tensor of two names under both; safetensors keeps no two names of one
            tensors |= {again: tensors[again].clone() for again in second_names(backbone_module(network))}
        network.save_pretrained(folder, state_dict=tensors, max_shard_size=max_shard_size)
        refuse_shards(network, folder, max_shard_size)
        save_processor(processor, folder)
        verify_export(network, folder, processor)


def save_merge_state(
    state: dict[str, Tensor], config: MedMergeConfig, layout: KernelWeights | None, folder: Path
) -> None:
    """Write what made the merge, and kernel weights (with a picture), head and statistics as its merge stage ended.

    Args:
        state: the small state; empty for a model that is no merge.
        config: of the model; the kernel weights' figures are noted in it, and which tensors it belongs to.
        layout: names and kernel shapes, where there is a state.
        folder: the export.
    """
    (folder / MERGE_CONFIG).parent.mkdir(exist_ok=True)
    if layout is not None:
        parameter = state[KERNEL_WEIGHTS]
        figures = {"kernel_weights": block_statistics(layout, parameter), "kernels": parameter.shape[1]}
        config.record = {**config.record, **figures}
        names = [source_name(source) for source in config.sources]
        plot_kernel_weights(kernel_table(layout, parameter, names), folder / FIGURE)
        save_tensors(state, folder / MERGE_STATE)
    config.record = {**config.record, TENSORS_SHA256: tensors_sha256(folder)}
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


def add_page(folder: Path, html: str) -> None:
    """Put the page of a run into its export, as the last of its files, and a link to it on the card, if that is ours.

    Args:
        folder: the export.
        html: the page.
    """
    card = folder / CARD
    if TAGS[0] in card.read_text(errors="replace"):
        config = MedMergeConfig.from_json_file(folder / MERGE_CONFIG)
        replace_file(card, render_card(config, folder.absolute().name, page=PAGE))
    replace_file(folder / PAGE, html)
