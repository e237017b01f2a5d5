"""From settings to the target's images and to models of the sources."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from settings import Settings

from medmerge_hf import MedMergeModel, init_by_fisher, init_by_regression, single_source_model
from medmerge_hf.data import load_target
from medmerge_hf.ranking import source_features
from medmerge_hf.transforms import resolve_preprocessing


MULTI_LABEL = "multi_label_classification"


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


def make_model(settings: Settings, target: Any) -> MedMergeModel:
    """The sources of the settings, ready for the merge stage on a target."""
    model = MedMergeModel.from_sources(
        settings.source.sources,
        id2label=label_names(target),
        problem_type=MULTI_LABEL if target.multi_label else None,
        architecture=settings.source.architecture,
        image_size=settings.data.image_size,
        granularity=settings.source.granularity,  # type: ignore[arg-type]
        constraint=settings.source.constraint,  # type: ignore[arg-type]
        init=settings.source.init[0] if len(settings.source.init) == 1 else settings.source.init,
        include=settings.source.include,
        exclude=settings.source.exclude,
        freeze=settings.source.freeze,
    )
    if align := settings.source.align:
        given = None if align == "weights" else target_images(model, target, settings.run.seed)
        model.align(align, given, settings.source.align_jointly)  # type: ignore[arg-type]
    if method := settings.source.estimate:
        estimate = init_by_regression if method == "regmean" else init_by_fisher
        estimate(model, target_images(model, target, settings.run.seed))
    return model


def target_images(model: MedMergeModel, target: Any, seed: int) -> Iterator[torch.Tensor]:
    """Batches of training images as the model takes them, without augmentation."""
    pixels, images = resolve_preprocessing(model), target["train"].shuffle(seed=seed)["image"]
    for start in range(0, len(images), 32):
        yield torch.stack([pixels.eval_transform(image) for image in images[start : start + 32]])


def make_single(source: Any, settings: Settings, target: Any) -> MedMergeModel:
    """One source of the settings, alone."""
    return single_source_model(
        source,
        id2label=label_names(target),
        problem_type=MULTI_LABEL if target.multi_label else None,
        architecture=settings.source.architecture,
        image_size=settings.data.image_size,
    )


def training_features(model: MedMergeModel, target: Any, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What a model makes of all training images before its head, `[N, D]`, and their labels in the same order."""
    labels = np.asarray(target["train"].shuffle(seed=seed)["label"])
    return source_features(model, target_images(model, target, seed)), labels
