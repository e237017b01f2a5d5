"""REPAIR for a [`MedMergeModel`]: its sources as networks, and how much of each is in every channel."""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .errors import SettingsError
from .networks import backbone_parameters, backbone_prefix
from .normalization import batch_norms, repair
from .source_networks import source_networks


if TYPE_CHECKING:
    from .modeling_medmerge import MedMergeModel


BATCHES = 8


def repairer(model: "MedMergeModel") -> Callable[[Any, Iterable[Any]], None]:
    """Remember the sources of a model that is about to collapse.

    Args:
        model: merging.

    Returns:
        A function that mends the collapsed network on batches of training images, the first 8.

    Raises:
        SettingsError: it has BatchNorm, whose statistics do the same, or it is merged per (out, in) pair or finer.
    """
    merge: Any = model.merge
    if batch_norms(model.network):
        raise SettingsError("repair=True is for networks without BatchNorm; statistics are re-estimated with it.")
    if merge.granularity in ("kernel", "element"):
        raise SettingsError(f"repair=True needs one weight an output channel, not granularity={merge.granularity!r}.")
    sources = source_networks(model)
    shares = _shares(merge, backbone_parameters(model.network), backbone_prefix(model.network))

    def mend(network: Any, batches: Iterable[Any]) -> None:
        given = list(islice(batches, BATCHES))
        if not given:
            raise SettingsError("repair=True needs batches of training images.")
        repair(network, sources, shares, given)

    return mend


def _shares(merge: Any, anchor: dict[str, Any], below: str) -> dict[str, Tensor]:
    """Module -> `[S, channels]`, the anchor first."""
    found = {}
    for name, weight in merge.split(merge.learned.detach()).items():
        if not name.endswith(".weight") or anchor[name].ndim not in (2, 4):
            continue
        others = weight.reshape(len(weight), -1).expand(-1, anchor[name].shape[0])
        found[below + name.removesuffix(".weight")] = torch.cat([1 - others.sum(0, keepdim=True), others])
    return found
