"""A network in memory."""

from typing import Any

import torch
from torch import nn

from ...errors import SourceError
from ...networks.timm_config import image_channels, resize_timm_config, timm_config, timm_input, with_channels
from ..place import Place
from ..reference import LoadedSource, SourceReference
from .registry import reader


def _is_module(place: Place) -> bool:
    return isinstance(place.where, nn.Module)


@reader("a network in memory", _is_module)
def read_module(place: Place, reference: SourceReference, weights: bool = True) -> LoadedSource:
    """Take the state dict, and the config that timm or transformers left in the module.

    Raises:
        SourceError: its tensors are on the meta device.
    """
    module: Any = place.where
    if empty := next((name for name, tensor in module.state_dict().items() if tensor.is_meta), None):
        raise SourceError(
            f"{empty} of the {type(module).__name__} given as a source has no values (meta device): make the network "
            "outside of `torch.device('meta')` or `init_empty_weights` and load its weights, or name its file."
        )
    config: Any = getattr(module, "config", None)
    network_config = None
    if hasattr(config, "model_type"):
        network_config = config.to_dict()
    elif isinstance(cfg := getattr(module, "pretrained_cfg", None), dict) and cfg.get("architecture"):
        network_config = _timm_module_config(module, cfg)
    elif reference.architecture:
        network_config = timm_config(reference.architecture)
    name = (network_config or {}).get("architecture") or reference.architecture
    reference = SourceReference(f"memory:{type(module).__name__}", "memory", architecture=name)
    stated = timm_input(network_config) if network_config and hasattr(module, "pretrained_cfg") else None
    tensors = module.state_dict()
    if not weights:
        tensors = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    return LoadedSource(reference, tensors, network_config, input=stated, module=module)


def _timm_module_config(module: Any, cfg: dict[str, Any]) -> dict[str, Any]:
    """timm notes the network's name in it, but not the number of channels and pixels that it was made for."""
    config = timm_config(cfg["architecture"], cfg)
    config = with_channels(config, image_channels(config, dict(module.named_parameters())))
    sides = getattr(getattr(module, "patch_embed", None), "img_size", None) or ()
    return resize_timm_config(config, *set(sides)) if len(set(sides)) == 1 else config
