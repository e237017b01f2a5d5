"""Fine-tuned networks as teachers: what they say of validation images tells how sure and how heard each may be."""

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


def teachers_of(models: Sequence[MedMergeModel], seen: Sequence[HeldOut]) -> Teachers:
    """Those of several models that help, each as sure as the held-out images allow.

    Args:
        models: trained.
        seen: what each says of the validation images.
    """
    each = zip(models, shares_of(seen), seen, strict=True)
    taken = [(model, float(share), one.temperature) for model, share, one in each if share]
    networks, weights, temperatures = zip(*taken, strict=True)
    return Teachers(networks, weights, temperatures)
