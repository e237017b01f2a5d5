"""Distillation in the merge stage: the merged features keep what the sources' features say about the images.

The features of two sources are no coordinates of one space, but which images look alike is comparable: the loss is
one minus linear CKA (Kornblith et al., arXiv 1905.00414), which no rotation or scale of the features changes. So it
needs no projection that would have to be learned.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .networks import observed_features
from .source_networks import source_networks


if TYPE_CHECKING:
    from .modeling_medmerge import MedMergeModel


def linear_cka(one: Tensor, other: Tensor) -> Tensor:
    """How alike two sets of features see the same images: linear centred kernel alignment.

    Args:
        one: `[N, D]`.
        other: `[N, E]`, of the same images.

    Returns:
        A scalar from 0 to 1.

    Example:
        >>> features = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]])
        >>> round(linear_cka(features, 3 * features.flip(1)).item(), 3)
        1.0
    """
    grams = []
    for features in (one, other):
        centred = features.float() - features.float().mean(0)
        grams.append(centred @ centred.T)
    product = (grams[0] * grams[1]).sum()
    return product / (grams[0].norm() * grams[1].norm()).clamp_min(1e-12)


class SourceFeatures:
    """The sources as frozen networks, whose features the merged ones are held against.

    Memory and time grow by one network and one forward pass a source.

    Args:
        model: merging.
    """

    def __init__(self, model: "MedMergeModel") -> None:
        self.networks = source_networks(model)

    def loss(self, merged: Tensor, images: Tensor) -> Tensor:
        """One minus CKA, mean over the sources.

        Args:
            merged: `[N, D]` features of the merged network.
            images: `[N, C, H, W]`, the same.

        Returns:
            A scalar; 0 for a batch of one image, which says nothing about likeness.
        """
        if len(images) < 2:
            return merged.new_zeros(())
        alike = []
        for network in self.networks:
            network.to(images.device)
            with torch.no_grad(), observed_features(network) as seen:
                network(images)
            alike.append(linear_cka(merged, seen[-1]))
        return 1 - torch.stack(alike).mean()
