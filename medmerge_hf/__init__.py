"""Merge vision models of different initialisations into one plain model for a new medical imaging task.

The method is MedMerge (Almakky et al., arXiv 2403.11646). Nothing heavy is imported before a name is used.
"""

import importlib
from typing import TYPE_CHECKING, Any


__version__ = "0.1.0"

_NAMES = {
    "MedMergeConfig": "configuration_medmerge",
    "MedMergeModel": "modeling_medmerge",
    "MedMergeTrainer": "trainer",
    "MedMergeTrainingArguments": "training_args",
    "InputConvention": "references",
    "NetworkDialect": "references",
    "SourceReference": "references",
    "inspect_sources": "preflight",
    "load_target": "data",
    "make_compute_metrics": "metrics",
    "recalibrate_batch_norm": "normalization",
    "resolve_preprocessing": "transforms",
    "single_source_model": "baselines",
}

if TYPE_CHECKING:
    from .baselines import single_source_model as single_source_model
    from .configuration_medmerge import MedMergeConfig as MedMergeConfig
    from .data import load_target as load_target
    from .metrics import make_compute_metrics as make_compute_metrics
    from .modeling_medmerge import MedMergeModel as MedMergeModel
    from .normalization import recalibrate_batch_norm as recalibrate_batch_norm
    from .preflight import inspect_sources as inspect_sources
    from .references import InputConvention as InputConvention
    from .references import NetworkDialect as NetworkDialect
    from .references import SourceReference as SourceReference
    from .trainer import MedMergeTrainer as MedMergeTrainer
    from .training_args import MedMergeTrainingArguments as MedMergeTrainingArguments
    from .transforms import resolve_preprocessing as resolve_preprocessing

__all__ = ["__version__", *sorted(_NAMES)]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
