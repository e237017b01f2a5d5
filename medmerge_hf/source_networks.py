"""The sources of a merge as tensors again: anchor plus difference, own statistics."""

from typing import TYPE_CHECKING, Any

from torch import Tensor

from .networks import backbone_state


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
