"""Fine-tuned networks as teachers: what they say of the validation images tells how much each counts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..data import ImageDataset
from ..evaluation.ensemble import HeldOut, useful_weights
from ..modeling_medmerge import MedMergeModel
from ..training.distillation import Teachers
from .settings import Settings
from .stages import class_priors, eval_transform, make_trainer, whole_arguments


@torch.no_grad()
def held_out(model: MedMergeModel, target: Any, settings: Settings) -> HeldOut:
    """What a model says of the validation images.

    Args:
        model: trained.
        target: the data set.
        settings: of the run.
    """
    images = ImageDataset(target["validation"], eval_transform(model))
    logits = make_trainer(model, target, settings, whole_arguments(settings)).predict(images).predictions
    priors = class_priors(target, settings)
    labels = np.asarray(target["validation"]["label"])
    return HeldOut(logits, labels, None if priors is None else priors.numpy())


def shares_of(seen: Sequence[HeldOut]) -> np.ndarray:
    """How much each of several networks counts as a teacher, `[S]`; 0 of one that does not help the others.

    Args:
        seen: what each says of the validation images.
    """
    return useful_weights(np.stack([one.truths for one in seen]))


def teachers_of(models: Sequence[MedMergeModel], shares: np.ndarray) -> Teachers:
    """Those of several models that count.

    They are weighed at their temperatures and teach without: students of softened teachers are better calibrated and
    rank images worse (benchmarks/TEACHING.md).

    Args:
        models: trained.
        shares: of [`shares_of`].
    """
    taken = [(model, float(share)) for model, share in zip(models, shares, strict=True) if share]
    networks, weights = zip(*taken, strict=True)
    return Teachers(networks, weights)
