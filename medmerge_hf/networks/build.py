"""A plain timm-wrapper or transformers classifier from a config, with the target's labels."""

import inspect
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..errors import SettingsError
from .classifier_output import answers_labels, as_classifier


# What belongs to the labels of a source, not to the network.
LABEL_KEYS = ("id2label", "label2id", "label_names", "num_classes", "num_labels", "problem_type")

# transformers' word for a task in which an image may have several labels.
MULTI_LABEL = "multi_label_classification"

# Arguments of a forward pass that no image processor for plain images gives.
MORE_THAN_IMAGES = {
    "input_ids": "input_ids, not images alone",
    "spatial_shapes": "spatial_shapes, images of any shape cut into patches (its checkpoints for one image size are "
    "SigLIP networks, model type siglip, which can be merged)",
}


def network_config(values: Mapping[str, Any], **labels: Any) -> Any:
    """A plain transformers config with the labels of the target.

    Args:
        values: a config as a dict, with its `model_type`.
        labels: `num_labels`, `id2label`, `label2id`, `problem_type` of the target task; `None` is left out.

    Returns:
        A `PreTrainedConfig` of that model type.

    Raises:
        SettingsError: a model type that transformers does not know, or settings that contradict each other.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    kind = values.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise SettingsError(
            f"transformers knows no model type {kind!r}: the anchor must be a timm or transformers network."
        )
    kept = {key: value for key, value in values.items() if key not in LABEL_KEYS}
    given = {key: value for key, value in labels.items() if value is not None}
    try:
        return CONFIG_MAPPING[kind].from_dict(kept, **given)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise SettingsError(f"The config of this {kind} network is refused by transformers: {error}") from error


def build_network(config: Any) -> Any:
    """A plain image classifier of this config, with fresh weights.

    Args:
        config: a `PreTrainedConfig`. Where transformers has several classifiers for it (Perceiver), its
            `architectures` choose; those that only infer (DeiT and LeViT with a teacher) give way to the one that
            trains.

    Raises:
        SettingsError: transformers has no image classifier for it, or one that cannot be trained on plain images.
    """
    from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, AutoModelForImageClassification

    if type(config) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise SettingsError(f"transformers has no image classifier for {config.model_type!r}.{_in_timm(config)}")
    known = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(config)]
    classes = known if isinstance(known, tuple) else (known,)
    named = [kind for kind in classes if kind.__name__ in (config.architectures or ()) and answers_labels(kind)]
    chosen = (named or classes)[0]
    if why := _unfit(chosen):
        raise SettingsError(f"{chosen.__name__} ({config.model_type}) {why}: it cannot be merged.{_in_timm(config)}")
    config.architectures = [chosen.__name__]
    try:
        return as_classifier(AutoModelForImageClassification.from_config(config, trust_remote_code=False))
    except (ValueError, ImportError) as error:  # settings that contradict each other, or a library that is not there
        why = " ".join(str(error).split())
        raise SettingsError(f"transformers cannot build {chosen.__name__} ({why}).") from error


def _unfit(kind: type) -> str:
    """Why a class of transformers cannot be trained on plain images; empty where it can."""
    takes = inspect.signature(kind.forward).parameters  # type: ignore[attr-defined]
    return next((f"takes {why}" for name, why in MORE_THAN_IMAGES.items() if name in takes), "")


def _in_timm(config: Any) -> str:
    import timm

    names = timm.list_models(f"*{config.model_type.rpartition('_')[2]}*", pretrained=True)
    return f" timm has {', '.join(names[:3])}, which can." if names else ""


def architecture_name(network: Any) -> str:
    """How a user calls the architecture: timm's name, or the class of a transformers network."""
    return getattr(network.config, "architecture", None) or type(network).__name__


def input_shape(network: Any) -> tuple[int, ...]:
    """Channels, height and width of the images that a network is made for."""
    cfg = getattr(network.config, "pretrained_cfg", None) or {}
    if "input_size" in cfg:
        return tuple(cfg["input_size"])
    config = image_config(network.config)
    size = getattr(config, "image_size", None) or 64  # small: this network takes any
    size = size if isinstance(size, (tuple, list)) else (size, size)
    return (getattr(config, "num_channels", 3), *size)


def image_config(config: Any) -> Any:
    """The part of a transformers config that speaks of images: that of the vision tower, where there are two."""
    return getattr(config, "vision_config", None) or config


def target_labels(num_labels: int | None, id2label: Mapping[int, str] | None) -> dict[str, Any]:
    """Label keywords of a config from what a user gives.

    Args:
        num_labels: number of classes.
        id2label: their names.

    Returns:
        `num_labels`, or `id2label` and `label2id`.

    Raises:
        SettingsError: none is given, or the two disagree.
    """
    if id2label is not None:
        names = class_names(id2label)
        if num_labels is not None and num_labels != len(names):
            raise SettingsError(f"num_labels={num_labels} but id2label names {len(names)} classes.")
        return {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    if not num_labels:
        raise SettingsError(
            f"The target task has {num_labels or 'no'} labels: pass num_labels=... or id2label={{0: 'benign', ...}}."
        )
    return {"num_labels": num_labels}


def class_names(id2label: Mapping[int, str]) -> dict[int, str]:
    """Class index -> name in the order of the indices, in which files list the names.

    Args:
        id2label: in any order; the indices may be text, as JSON has them.

    Raises:
        SettingsError: it is no mapping, the indices are not 0 to K - 1, or a name stands twice.

    Example:
        >>> class_names({1: "malignant", 0: "benign"})
        {0: 'benign', 1: 'malignant'}
    """
    if not isinstance(id2label, Mapping):
        raise SettingsError(f"id2label={id2label!r} is no mapping of indices to names: {{0: 'benign', ...}}.")
    given = {str(index).strip(): str(name) for index, name in id2label.items()}
    if not given or given.keys() != {str(index) for index in range(len(id2label))}:
        raise SettingsError(f"id2label has the indices {list(id2label)[:5]}: K classes are numbered 0 to K - 1.")
    names = {index: given[str(index)] for index in range(len(given))}
    if twice := [name for name, count in Counter(names.values()).items() if count > 1]:
        raise SettingsError(f"id2label gives the name {twice[0]!r} to more than one class: each needs its own.")
    return names
