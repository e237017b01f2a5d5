"""A trained network told how often each class occurs: images without labels say how far off its biases are."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax
from torch.utils.data import Subset
from transformers import Trainer

from ..errors import DataError, SettingsError, StateError
from ..export.card.record import record_match
from ..modeling_medmerge import MedMergeModel
from ..networks.backbone import head_biases


LOOKED_AT = 8  # images by which the shifted network is checked

TOLERANCE = 0.05  # of a logit, for networks in half precision


def class_shift(logits: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """What to add to logits so that, over all images, every class gets as much probability as it has labels.

    The `distribution alignment` of ReMixMatch (Berthelot et al., arXiv 1911.09785), solved instead of iterated: the
    shift is the minimum of a convex function, whose gradient is the difference between the two shares.

    Args:
        logits: `[N, K]`, of images that are drawn as the labelled ones are.
        shares: `[K]`, of the labels, or their numbers; above 0.

    Returns:
        `[K]`, mean 0.

    Raises:
        DataError: a class has no label, so that no shift is low enough; or there are no images.

    Example:
        >>> logits = np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> shift = class_shift(logits, np.array([0.5, 0.5]))
        >>> softmax(logits + shift, axis=1).mean(axis=0).round(3)
        array([0.5, 0.5])
    """
    logits, shares = np.asarray(logits, np.float64), np.asarray(shares, np.float64)
    if not len(logits):
        raise DataError("There are no images to match the shares of the classes on.")
    if not shares.min() > 0:
        raise DataError(f"Class {int(shares.argmin())} of {len(shares)} has no label: its share cannot be matched.")
    shares = shares / shares.sum()  # else no shift is the last: all logits together cost nothing and gain the rest

    def distance(shift: np.ndarray) -> tuple[float, np.ndarray]:
        moved = logits + shift
        return logsumexp(moved, axis=1).mean() - shares @ shift, softmax(moved, axis=1).mean(axis=0) - shares

    found = minimize(distance, np.zeros(len(shares)), jac=True, method="L-BFGS-B", options={"ftol": 0, "gtol": 1e-8})
    return found.x - found.x.mean()


def match_class_shares(trainer: Trainer, images: Any, shares: Any) -> torch.Tensor:
    """Shift the biases of a trained model's head until it says each class as often as the labels have it.

    A network that learned from few labels bets on the frequent classes. The images have to be drawn as the labelled
    ones were, from the same clinic, say: only there the classes have the same shares. Checkpoints do not hold the
    shift, exports do.

    Args:
        trainer: of a model that is collapsed and trained. In several processes all of them call this.
        images: data set without labels, or whose labels are not looked at, transformed as for evaluation.
        shares: `[K]`, of each class among the labels, or their numbers; above 0.

    Returns:
        `[K]`: what was added to the logits, mean 0.

    Raises:
        DataError: there are no images, or a class has no label.
        SettingsError: the head has no biases, or the model answers no single label an image.
        StateError: the model is merging.

    Example:
        >>> import timm
        >>> from medmerge_hf import MedMergeTrainer, single_source_model
        >>> from transformers import TrainingArguments
        >>> model = single_source_model(timm.create_model("test_resnet"), num_labels=2)
        >>> images = [{"pixel_values": torch.randn(3, 32, 32)} for _ in range(4)]
        >>> arguments = TrainingArguments("run", use_cpu=True, disable_tqdm=True, report_to="none")
        >>> trainer = MedMergeTrainer(model, arguments)
        >>> shift = match_class_shares(trainer, images, [0.9, 0.1])
        >>> trainer.predict(images).predictions.argmax(1).tolist()
        [0, 0, 0, 0]
    """
    model: MedMergeModel = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    if model.merging:
        raise StateError("match_class_shares needs a model that is collapsed and trained; this one is merging.")
    if model.config.problem_type not in (None, "single_label_classification"):
        raise SettingsError(f"match_class_shares has no effect on {model.config.problem_type}: leave it out.")
    logits = trainer.predict(images).predictions
    shift = torch.as_tensor(class_shift(logits, shares), dtype=torch.float32)
    biases = head_biases(model.network)
    _add(biases, shift)
    few = range(min(LOOKED_AT, len(logits)))
    moved = torch.as_tensor(trainer.predict(Subset(images, few)).predictions - logits[few])
    if not torch.allclose(moved, shift.expand_as(moved), atol=TOLERANCE):
        _add(biases, -shift)
        raise SettingsError(
            "The logits of this network do not follow biases of its head: the shares of its classes cannot be "
            "matched. Leave match_shares out."
        )
    record_match(model.config, len(logits), shift.tolist())
    return shift


@torch.no_grad()
def _add(biases: Sequence[torch.Tensor], shift: torch.Tensor) -> None:
    for bias in biases:
        bias += shift.to(bias)
