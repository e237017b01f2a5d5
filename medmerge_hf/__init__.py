"""Merge vision models of different initialisations into one plain model for a new medical imaging task.

The method is MedMerge (Almakky et al., arXiv 2403.11646). Nothing heavy is imported before a name is used.
"""

import importlib
from typing import TYPE_CHECKING, Any


__version__ = "0.1.0"

_NAMES = {
    "ImageDataset": "data",
    "InputConvention": "networks.input_convention",
    "MedMergeConfig": "configuration_medmerge",
    "MedMergeModel": "modeling_medmerge",
    "MedMergeTrainer": "training.trainer",
    "MedMergeTrainingArguments": "training.training_args",
    "MixedImages": "training.distillation",
    "NetworkVariant": "sources.reference",
    "SourceReference": "sources.reference",
    "Teachers": "training.distillation",
    "inspect_sources": "inspection",
    "load_target": "data",
    "make_compute_metrics": "evaluation.compute_metrics",
    "match_class_shares": "training.class_shares",
    "recalibrate_batch_norm": "networks.batch_norm",
    "resolve_preprocessing": "networks.preprocessing",
    "single_source_model": "training.single_source",
}

if TYPE_CHECKING:
    from .configuration_medmerge import MedMergeConfig as MedMergeConfig
    from .data import ImageDataset as ImageDataset
    from .data import load_target as load_target
    from .evaluation.compute_metrics import make_compute_metrics as make_compute_metrics
    from .inspection import inspect_sources as inspect_sources
    from .modeling_medmerge import MedMergeModel as MedMergeModel
    from .networks.batch_norm import recalibrate_batch_norm as recalibrate_batch_norm
    from .networks.input_convention import InputConvention as InputConvention
    from .networks.preprocessing import resolve_preprocessing as resolve_preprocessing
    from .sources.reference import NetworkVariant as NetworkVariant
    from .sources.reference import SourceReference as SourceReference
    from .training.class_shares import match_class_shares as match_class_shares
    from .training.distillation import MixedImages as MixedImages
    from .training.distillation import Teachers as Teachers
    from .training.single_source import single_source_model as single_source_model
    from .training.trainer import MedMergeTrainer as MedMergeTrainer
    from .training.training_args import MedMergeTrainingArguments as MedMergeTrainingArguments

__all__ = ["__version__", *sorted(_NAMES)]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
