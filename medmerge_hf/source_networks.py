"""The sources of a merge as tensors and as networks of their own again: anchor plus difference, own statistics."""

import copy
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .networks import backbone_state, load_backbone


if TYPE_CHECKING:
    from .modeling_medmerge import MedMergeModel


def source_tensors(model: "MedMergeModel") -> list[dict[str, Tensor]]:
    """Floating point tensors of every source by their names below the backbone, anchor first.

    Args:
        model: merging.

    Returns:
        Name -> float32 tensor on the CPU, a dict a source; BatchNorm statistics are the source's own.
    """
    merge: Any = model.merge
    anchor = {name: tensor.detach().cpu().float() for name, tensor in backbone_state(model.network).items()}
    sources = [anchor]
    for differences, statistics in zip(merge.differences, model.source_statistics, strict=True):
        pairs = zip(merge.names, differences.parameters(), strict=True)
        own = {name: anchor[name] + d.detach().cpu().float() for name, d in pairs}
        sources.append({**anchor, **statistics, **own})
    return sources


def source_networks(model: "MedMergeModel") -> list[nn.Module]:
    """Every source as a network beside the model, anchor first, in eval mode and frozen. The head is the model's.

    Args:
        model: merging.

    Example:
        >>> import timm
        >>> from medmerge_hf import MedMergeModel
        >>> model = MedMergeModel.from_sources([timm.create_model("test_resnet") for _ in range(3)], num_labels=2)
        >>> len(source_networks(model))
        3
    """
    networks = []
    for tensors in source_tensors(model):
        network = copy.deepcopy(model.network).eval().requires_grad_(False)
        load_backbone(network, tensors)
        networks.append(network)
    return networks
