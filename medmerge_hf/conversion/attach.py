"""From loaded sources to a merged network: the anchor's config and processor, every source converted, differences."""

from collections.abc import Sequence
from typing import Any

import torch

from ..errors import SettingsError
from ..merging.kernel_weights import KernelWeights
from ..merging.merged_network import MergedNetwork, matching, merged_parameters
from ..networks.backbone import backbone_parameters, load_backbone
from ..networks.build import image_config, input_shape
from ..networks.input_convention import InputConvention
from ..networks.processors import default_processor, for_channels, normalise_processor, resize_processor
from ..networks.timm_config import resize_timm_config
from ..sources.reference import LoadedSource
from .convert import convert_onto
from .fingerprint import identify


def anchor_config(anchor: LoadedSource, image_size: int | None = None) -> dict[str, Any]:
    """The plain transformers config of an anchor's network, as a dict.

    Args:
        anchor: a source that says which network it is.
        image_size: pixels; by default the anchor's own.

    Raises:
        SettingsError: the anchor does not say which network it is, or the network cannot take this size.
    """
    plain, stated = anchor.network_config, anchor.reference.input
    if plain is None:
        raise SettingsError(
            f"Source {anchor.reference.id!r} does not say which network it is: pass architecture='resnet18' "
            "(timm's name)."
        )
    if plain["model_type"] != "timm_wrapper":
        return plain if image_size is None else _for_images_of(plain, image_size)
    if image_size is not None:
        plain = resize_timm_config(plain, image_size)
    if stated is not None:
        mean, std = stated.normalisation(plain["pretrained_cfg"].get("input_size", (3,))[0])
        plain = {**plain, "pretrained_cfg": {**plain["pretrained_cfg"], "mean": mean, "std": std}}
    return plain


def _for_images_of(plain: dict[str, Any], image_size: int) -> dict[str, Any]:
    """A transformers config for another image size, where its networks are made for one."""
    found = {**plain, "image_size": image_size} if plain.get("image_size") else dict(plain)
    if (plain.get("vision_config") or {}).get("image_size"):
        found["vision_config"] = {**plain["vision_config"], "image_size": image_size}
    return found


def anchor_processor(anchor: LoadedSource, network: Any, image_size: int | None = None) -> Any:
    """The image processor of a transformers-native anchor.

    Args:
        anchor: may carry one.
        network: of its architecture; without a processor images are resized to what it is made for.
        image_size: pixels, instead.
    """
    own = getattr(image_config(network.config), "image_size", None) or 224
    channels, stated = input_shape(network)[0], anchor.reference.input
    processor = for_channels(anchor.image_processor or default_processor(image_size or own), channels)
    processor = normalise_processor(processor, stated, channels) if stated else processor
    return resize_processor(processor, image_size, channels) if image_size else processor


def attach_sources(
    network: Any, loaded: Sequence[LoadedSource], config: Any, images: InputConvention
) -> tuple[MergedNetwork, list[dict[str, Any]]]:
    """Put the anchor into a network, the other sources' differences beside it, all frozen.

    Args:
        network: a plain classifier of the anchor's architecture; its backbone is overwritten.
        loaded: the sources, anchor first.
        config: a [`MedMergeConfig`]: merge settings, and the sources where the merge was made before.
        images: what the network is given.

    Returns:
        The merged network, its kernel weights at `config.init`, and the sources' references with their fingerprints.

    Raises:
        SourceError: a source that does not fit the network, is there twice, or is not the one in the config.
    """
    anchor = convert_onto(network, loaded[0], images, anchor=True)
    found = [convert_onto(network, source, images, statistics=True) for source in loaded[1:]]
    backbone = backbone_parameters(network)
    tensors = [source.only(backbone) for source in (anchor, *found)]
    references = identify([source.reference for source in loaded], tensors, config.sources)
    load_backbone(network, anchor.tensors)
    for parameter in backbone.values():
        parameter.requires_grad_(False)
    weights = kernel_layout(network, config, len(loaded))
    weights.set_sources(anchor.tensors, [anchor.tensors | source.tensors for source in tensors[1:]])
    weights.reset(config.init)
    weights.held = set(matching(weights.names, config.freeze))
    return MergedNetwork(network, weights, [source.without(backbone) for source in found]), references


def kernel_layout(network: Any, config: Any, num_sources: int) -> KernelWeights:
    """Kernel weights of the tensors that a [`MedMergeConfig`] includes, still at 0 and without sources."""
    shapes = {name: p.shape for name, p in merged_parameters(network, config.include, config.exclude).items()}
    dtype = getattr(torch, config.source_dtype)
    return KernelWeights(shapes, num_sources, config.granularity, config.constraint, dtype)
