"""What a merge was told, in words and as the call that makes it again."""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from ...configuration_medmerge import MedMergeConfig
from ...networks.input_convention import INPUTS, InputConvention
from ...sources.reference import NetworkVariant, SourceReference, source_name


# Of a config, what is no setting of the merge: what is merged, into what, and what came of it.
APART = ("self", "sources", "network", "record", "kwargs")

# What is told in any case.
USUAL = ("granularity", "constraint", "init")

# Of a reference, what is said otherwise in the call, found out again, or noted.
FOUND = ("id", "loader", "revision", "architecture", "sha256", "license", "notes")


def merge_settings(config: MedMergeConfig) -> dict[str, Any]:
    """The settings of a merge that are not at their default, whatever they are called, by the call's own words.

    Args:
        config: of the merge.

    Example:
        >>> merge_settings(MedMergeConfig(exclude=["layer4.*"]))
        {'exclude': ['layer4.*']}
    """
    found = {}
    for name, parameter in inspect.signature(MedMergeConfig).parameters.items():
        value = getattr(config, name, None)
        default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        if name not in APART and value != default and (value or default):
            found[name] = value
    if config.align:
        found["align"] = config.align["method"]
    return found


def merge_call(config: MedMergeConfig) -> str:
    """Python that makes a merge again, all that it was told included; files are named without their folders.

    Args:
        config: of the merge.
    """
    told = {"id2label": config.id2label, "problem_type": config.problem_type}
    told |= {"architecture": _architecture(config), "image_size": config.record.get("image_size")}
    told |= {name: getattr(config, name) for name in USUAL} | merge_settings(config)
    lines = [f"    {name}={value!r}," for name, value in told.items() if value is not None]
    if told.get("align") == "activations":
        lines.append("    align_images=images,  # batches of training images, [N, C, H, W]")
    sources = [f"        {_source(source)},{_hint(source)}" for source in config.sources]
    return "\n".join(["model = MedMergeModel.from_sources(", "    [", *sources, "    ],", *lines, ")"])


def _architecture(config: MedMergeConfig) -> str | None:
    """timm's name, where a file does not say it."""
    files = any(source.get("loader") == "file" for source in config.sources)
    return config.network.get("architecture") if files else None


def _source(source: Mapping[str, Any]) -> str:
    own = own_fields(source)
    if not own:
        return repr(f"{source['id']}@{source['revision']}" if source["revision"] else source_name(source))
    place = {"id": source_name(source)} | ({"revision": source["revision"]} if source["revision"] else {})
    return repr({**place, **own})


def _hint(source: Mapping[str, Any]) -> str:
    return "  # a network in memory: put it here" if source["loader"] == "memory" else ""


def own_fields(source: Mapping[str, Any]) -> dict[str, Any]:
    """What was said of one source beside where it lies.

    Args:
        source: of a config.

    Example:
        >>> own_fields({"id": "a.pth", "entry": "state_dict_ema", "sha256": "0"})
        {'entry': 'state_dict_ema'}
    """
    found = _changed(SourceReference, source, FOUND)
    if "input" in found:
        stated = InputConvention.parse(found["input"])
        named = [name for name, convention in INPUTS.items() if convention == stated]
        found["input"] = named[0] if named else _changed(InputConvention, found["input"])
    if "variant" in found:
        found["variant"] = _changed(NetworkVariant, found["variant"])
    return found


def _changed(kind: Any, values: Mapping[str, Any], apart: Sequence[str] = ()) -> dict[str, Any]:
    """The fields of a dataclass that are not at their default, as JSON has them."""
    defaults = {field.name: field.default for field in dataclasses.fields(kind) if field.name not in apart}
    lists = {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}
    return {name: values[name] for name, default in lists.items() if values.get(name, default) != default}
