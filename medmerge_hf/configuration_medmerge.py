"""Configuration of a [`MedMergeModel`]."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from transformers import AutoConfig, PreTrainedConfig

from .errors import SettingsError, StateError
from .merging.kernel_weights import CONSTRAINTS, GRANULARITIES, Constraint, Granularity
from .networks.build import network_config


# Of an export, in a folder of its own: timm up to 1.0.27 does not read a folder with two safetensors files at its top.
MERGE_CONFIG = "medmerge/config.json"
SourceDtype = Literal["float32", "bfloat16"]

SOURCE_DTYPES: tuple[str, ...] = get_args(SourceDtype)

# What is kept as JSON has it, so that a config that was read back is equal to the one that was written.
NESTED = ("sources", "network", "align", "record")


def as_json_has_it(value: Any) -> Any:
    """The same with lists for tuples and text for the keys of mappings, at every depth.

    Args:
        value: of dicts, lists, tuples, and what stands in them.

    Example:
        >>> as_json_has_it({0: (0.5, 0.5)})
        {'0': [0.5, 0.5]}
    """
    if isinstance(value, Mapping):
        return {str(key): as_json_has_it(item) for key, item in value.items()}
    return [as_json_has_it(item) for item in value] if isinstance(value, (list, tuple)) else value


def described(sources: Sequence[Any]) -> list[dict[str, Any]]:
    """Sources as a merge describes them, in the words of this version.

    Args:
        sources: of a config.

    Raises:
        SettingsError: one is no dict.
    """
    if not all(isinstance(source, Mapping) for source in sources):
        raise SettingsError(
            "The sources of a config are dicts, as a merge writes them. Networks, and places where sources are now, "
            "go to MedMergeModel.from_pretrained(..., sources=[...]) or MedMergeModel.from_sources."
        )
    # Exports of 0.1.0 call a source's variant its dialect.
    return [{"variant" if key == "dialect" else key: value for key, value in source.items()} for source in sources]


class MedMergeConfig(PreTrainedConfig):
    """What a merge is made of. Saved with every export as `medmerge/config.json`.

    Args:
        sources: one dict a source, the anchor first: the fields of [`SourceReference`].
        network: the plain transformers config of the merged network (`timm_wrapper` for timm networks), as a dict.
        granularity: what shares one weight: `model`, `layer` (one tensor), `filter` (an output filter, row, channel or
            bias entry), `kernel` (an (out, in) pair) or `element`.
        constraint: `complementary` (unbounded weights, the anchor gets `1 - sum`) or `convex` (softmax over sources).
        init: weight of every other source at the start, or one each; 0 is the anchor.
        include: patterns (`layer3.*`) of the tensors that are merged; the others stay the anchor's. All by default.
        exclude: patterns of tensors that stay the anchor's although they are included.
        freeze: patterns of tensors whose kernel weights stay at `init`.
        source_dtype: in which the other sources are held while merging: `float32`, or `bfloat16` for half the memory.
        align: how the sources' channels were permuted onto the anchor's: `method`; empty where they were not.
        record: what was done since: target data, training, results ([`export.record`]); the model card is made of it.
        kwargs: of `PreTrainedConfig`: `num_labels`, `id2label`, `problem_type`, ...

    Raises:
        SettingsError: an unknown granularity or constraint, an `init` outside [0, 1], or an unknown dtype.

    Example:
        >>> MedMergeConfig(granularity="layer", num_labels=4).granularity
        'layer'
    """

    model_type = "medmerge"

    def __init__(
        self,
        sources: list[dict[str, Any]] | None = None,
        network: dict[str, Any] | None = None,
        granularity: Granularity = "filter",
        constraint: Constraint = "complementary",
        init: "float | Sequence[float]" = 0.0,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        freeze: Sequence[str] = (),
        source_dtype: SourceDtype = "float32",
        align: dict[str, Any] | None = None,
        record: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if granularity not in GRANULARITIES:
            raise SettingsError(f"granularity={granularity!r} is not one of {', '.join(GRANULARITIES)}.")
        if constraint not in CONSTRAINTS:
            raise SettingsError(f"constraint={constraint!r} is not one of {', '.join(CONSTRAINTS)}.")
        weights = [init] if isinstance(init, (int, float)) else list(init)
        if not all(0 <= weight <= 1 for weight in weights):
            raise SettingsError(f"init={init} is the starting weight of every other source: between 0 (anchor) and 1.")
        if source_dtype not in SOURCE_DTYPES:
            raise SettingsError(f"source_dtype={source_dtype!r} is not one of {', '.join(SOURCE_DTYPES)}.")
        self.sources = sources or []
        self.network = network or {}
        self.granularity = granularity
        self.constraint = constraint
        self.init = float(init) if isinstance(init, (int, float)) else [float(weight) for weight in weights]
        self.include, self.exclude, self.freeze = list(include), list(exclude), list(freeze)
        self.source_dtype = source_dtype
        self.align = align or {}
        self.record = record or {}
        if names := kwargs.get("id2label"):  # files of timm list the names without their indices
            kwargs["id2label"] = {index: names[index] for index in sorted(names, key=int)}
        super().__init__(**kwargs)

    def __setattr__(self, key: str, value: Any) -> None:
        value = described(value) if key == "sources" else value
        super().__setattr__(key, as_json_has_it(value) if key in NESTED else value)

    def __eq__(self, other: object) -> bool:
        """Whether another says the same, also where one was written and read back."""
        return isinstance(other, MedMergeConfig) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def plain_config(self) -> Any:
        """The config of the plain network that a merge becomes, with the labels of the target."""
        labels = {"num_labels": self.num_labels, "id2label": self.id2label, "label2id": self.label2id}
        own = {"problem_type": self.problem_type, "attn_implementation": self._attn_implementation}
        return network_config(self.network, **labels, **own)

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: "str | os.PathLike[str]", **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As `PreTrainedConfig`; of an export, the config of its merge.

        Raises:
            OSError: it cannot be read.
            StateError: an ordinary model, which is no merge.
        """
        given = dict(kwargs)
        found, rest = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if found.get("model_type") == cls.model_type:
            return found, rest
        try:
            return super().get_config_dict(
                pretrained_model_name_or_path, **{**given, "_configuration_file": MERGE_CONFIG}
            )
        except OSError as error:
            unknown = isinstance(error.__cause__, LocalEntryNotFoundError)  # the Hub cannot be reached
            missing = isinstance(error.__cause__, EntryNotFoundError) and not unknown
            if not missing and not os.path.isdir(pretrained_model_name_or_path):
                raise
            raise StateError(
                f"{str(pretrained_model_name_or_path)!r} is a {found.get('model_type', 'model')} without "
                f"{MERGE_CONFIG}: nothing was merged there. AutoConfig.from_pretrained reads its config."
            ) from error


AutoConfig.register(MedMergeConfig.model_type, MedMergeConfig, exist_ok=True)

__all__ = ["MedMergeConfig"]
