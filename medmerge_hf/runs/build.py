"""From settings to the target's images and to models of the sources."""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ..data import load_target
from ..evaluation.ranking import probe_score, source_features
from ..modeling_medmerge import MedMergeModel
from ..networks.build import MULTI_LABEL
from ..networks.preprocessing import resolve_preprocessing
from ..sources.reference import stated_name
from ..training.single_source import single_source_model
from .settings import Settings


logger = logging.getLogger(__name__)


def load_data(settings: Settings) -> Any:
    """The target data set of the settings."""
    d = settings.data
    return load_target(
        d.data,
        name=d.data_name,
        revision=d.data_revision,
        image_column=d.image_column,
        label_column=d.label_column,
        group_column=d.group_column,
        multi_label=d.multi_label,
        unlabelled=d.unlabelled,
        dicom_window=d.dicom_window,
        validation_fraction=d.validation_fraction,
        test_fraction=d.test_fraction,
        label_fraction=d.label_fraction,
        skip_unreadable=d.skip_unreadable,
        drop_duplicates=d.drop_duplicates,
        seed=settings.run.seed,
    )


def label_names(target: Any) -> dict[int, str]:
    """Class index -> name of a loaded target."""
    return dict(enumerate(target.classes))


def _task(settings: Settings, target: Any) -> dict[str, Any]:
    """What a merge and a source alone are told of the target."""
    return {
        "id2label": label_names(target),
        "problem_type": MULTI_LABEL if target.multi_label else None,
        "architecture": settings.source.architecture,
        "image_size": settings.data.image_size,
    }


def make_model(settings: Settings, target: Any) -> MedMergeModel:
    """The sources of the settings, ready for the merge stage on a target."""
    model = MedMergeModel.from_sources(
        settings.source.sources,
        **_task(settings, target),
        granularity=settings.source.granularity,  # type: ignore[arg-type]
        constraint=settings.source.constraint,  # type: ignore[arg-type]
        init=settings.source.init[0] if len(settings.source.init) == 1 else settings.source.init,
        include=settings.source.include,
        exclude=settings.source.exclude,
        freeze=settings.source.freeze,
    )
    if align := settings.source.align:
        given = None if align == "weights" else target_images(model, target, settings.run.seed)
        model.align(align, given)  # type: ignore[arg-type]
    return model


def target_images(model: MedMergeModel, target: Any, seed: int) -> Iterator[torch.Tensor]:
    """Batches of training images as the model takes them, without augmentation."""
    pixels, images = resolve_preprocessing(model), target["train"].shuffle(seed=seed)["image"]
    for start in range(0, len(images), 32):
        yield torch.stack([pixels.eval_transform(image) for image in images[start : start + 32]])


def make_single(source: Any, settings: Settings, target: Any) -> MedMergeModel:
    """One source of the settings, alone."""
    return single_source_model(source, **_task(settings, target))


def training_features(model: MedMergeModel, target: Any, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What a model makes of all training images before its head, `[N, D]`, and their labels in the same order."""
    labels = np.asarray(target["train"].shuffle(seed=seed)["label"])
    return source_features(model, target_images(model, target, seed)), labels


def choose_sources(settings: Settings, target: Any) -> Settings:
    """The settings with the `keep_best` sources on which a linear probe of the training images does best.

    Args:
        settings: of the run; unchanged where `keep_best` is not set or all sources are kept in their order.
        target: the data set.

    Returns:
        Settings whose sources are ordered by the macro F1 of a cross-validated probe, the anchor first.
    """
    keep = settings.source.keep_best
    if keep is None:
        return settings
    seed, scores = settings.run.seed, []
    for source in settings.source.sources:
        model = make_single(source, settings, target)
        scores.append(probe_score(*training_features(model, target, seed), seed))
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    names = [stated_name(source) for source in settings.source.sources]
    found = ", ".join(f"{names[place]} {scores[place]:.3f}" for place in order)
    logger.info("Linear probe of the sources, macro F1: %s. Merging the first %d.", found, keep)
    return with_sources(settings, order[:keep])


def with_sources(settings: Settings, places: Sequence[int]) -> Settings:
    """The settings with some of their sources, the anchor first; none is left to be chosen.

    Args:
        settings: of the run.
        places: of the sources.
    """
    chosen = [settings.source.sources[place] for place in places]
    kept = dataclasses.replace(settings.source, sources=chosen, keep_best=None)
    options = {key: value for key, value in settings.options.items() if key != "keep_best"}
    return dataclasses.replace(settings, source=kept, options={**options, "sources": chosen})
