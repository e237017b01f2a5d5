"""transformers calls tensors otherwise on disk than in memory, differently from version to version."""

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor


def in_memory(network: Any, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A checkpoint of a transformers network under the names that `from_pretrained` gives its tensors.

    Unlike `from_pretrained` it keeps shapes and dtypes as they are, loads nothing, and takes empty tensors (meta
    device) too.

    Args:
        network: a transformers classifier.
        tensors: by the names on disk or in memory, of the classifier or of its base model.

    Returns:
        The tensors, what the network does not have under its own name; and name in memory -> (first) name here.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    rules = get_model_conversion_mapping(network)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    own, prefix = network.state_dict(), network.base_model_prefix
    found: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    waiting: dict[str, Any] = {}
    for name in sorted(tensors, key=dot_natural_key):
        ours, pattern = rename_source_key(name, renamings, converters, prefix, own)
        if ours not in own:
            plain, _ = rename_source_key(name, [], [], prefix, own)
            ours, pattern = (plain, None) if plain in own or pattern is None else (ours, pattern)
        origin.setdefault(ours, name)
        if pattern is None:
            found[ours] = tensors[name]
            continue
        rule = next(rule for rule in converters if pattern in rule.source_patterns)
        waiting.setdefault(ours, copy.deepcopy(rule)).add_tensor(ours, name, pattern, tensors[name])
    for first, rule in waiting.items():
        made = rule.convert(first, model=network, config=network.config)
        found |= {name: part[0] if isinstance(part, list) else part for name, part in made.items()}
        origin |= {name: origin[first] for name in made if name not in origin}
    return found, {name: origin[name] for name in found}
