"""Which network of a checkpoint: trainers wrap one, or keep two (a plain one and its average, student and teacher).

The user chooses with `entry`; where nobody chose, the choice is made by the rules below and told, or refused.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import CorruptSourceError


# Names under which trainers keep a network: the first that is there is taken where nobody chose.
PREFERRED = (
    # self-supervised pairs, whose authors evaluate the teacher
    *("teacher", "target_encoder", "ema_teacher"),
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "params", "weights"),
    *("backbone", "encoder", "student"),
    *("state_dict_ema", "model_ema", "ema", "ema_state_dict", "model_ema_state_dict", "ema_model", "params_ema"),
)

# Entries that hold tensors and are no network.
BESIDE = re.compile(
    r"optim|sched|scaler|rng|callback|loops|hparams|hyper_param|criterion|loss|queue|\bamp\b|stat(?:s|istics)$"
)

# Self-supervised training keeps two networks under one set of names: the one that is taken, and the other.
TWINS = (
    *(("teacher", "student"), ("teacher_backbone", "student_backbone"), ("target_encoder", "encoder")),
    *(("encoder_q", "encoder_k"), ("base_encoder", "momentum_encoder"), ("backbone", "momentum_backbone")),
    *(("backbone", "backbone_momentum"), ("online_network", "target_network"), ("online_encoder", "target_encoder")),
    *(("model", "ema_model"), ("model", "model_ema"), ("module", "module_ema"), ("net", "net_ema")),
)

# What belongs to the training and not to the network: decoder and mask of MAE, projectors, queues, prototypes.
TRAINING_ONLY = re.compile(
    r"^(?:module\.|model\.)*(?:decoder(?:_\w+|\d*)?|mask_token|projector\w*|projection_head\w*|contrastive_head\w*|"
    r"predictor\w*|prediction_head\w*|prototypes\w*|queue\w*|dino_head|ibot_head|dino_loss|ibot_patch_loss|center)(?:\.|$)"
)

DEPTH = 4  # of mappings in mappings


def choose_entry(found: Any, entry: str | None, source: str) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict of the one network that is meant.

    Args:
        found: what a file holds: a state dict, or mappings that hold some.
        entry: name of the mapping (`state_dict_ema`, `model.ema`), or of the module in the names (`encoder_k`).
        source: how errors call the file.

    Returns:
        Name -> tensor, and what was chosen and dropped, a phrase each.

    Raises:
        CorruptSourceError: no state dict, no such entry, or several of which none is the usual one.

    Example:
        >>> import torch
        >>> file = {"model": {"w": torch.zeros(2, 2)}, "model_ema": {"w": torch.ones(2, 2)}, "epoch": 3}
        >>> choose_entry(file, None, "a.pth")[1]
        ["entry 'model' read, not 'model_ema' (entry='model_ema' takes that)"]
    """
    networks = state_dicts(found)
    if not networks:
        raise CorruptSourceError(f"Source {source!r} holds no state dict (name -> tensor): {contents(found)}.")
    names = {".".join(path): tensors for path, tensors in networks.items()}
    key, notes = _chosen(list(names), entry, source)
    tensors, more = _chosen_module(names[key], entry if entry and not _names(entry, key) else None, source)
    return tensors, notes + more


def state_dicts(found: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], dict[str, Tensor]]:
    """Every state dict in mappings of mappings, under the keys that lead to it.

    Args:
        found: what a file holds.
        path: the keys that led here.

    Example:
        >>> import torch
        >>> weights = {"w": torch.zeros(2)}
        >>> list(state_dicts({"ema": weights, "optimizer": {"state": weights}, "epoch": 1}))
        [('ema',)]
    """
    if not isinstance(found, Mapping) or len(path) > DEPTH:
        return {}
    inner: dict[tuple[str, ...], dict[str, Tensor]] = {}
    for key, value in found.items():
        if isinstance(key, str) and isinstance(value, Mapping) and not BESIDE.search(key.lower()):
            inner |= state_dicts(value, (*path, key))
    own = {key: value for key, value in found.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if inner and not any(tensor.ndim > 1 for tensor in own.values()):
        return inner
    return {path: own, **inner} if own else inner


def contents(found: Any) -> str:
    """The entries of a file, for an error."""
    if not isinstance(found, Mapping):
        return f"it is a {type(found).__name__}"
    entries = [f"{str(key)[:40]} ({type(value).__name__})" for key, value in found.items()]
    more = f" and {len(entries) - 12} more" if len(entries) > 12 else ""
    return f"its entries are {', '.join(entries[:12]) or 'none'}{more}"


def _names(entry: str, key: str) -> bool:
    """Whether an entry stands for a key: the whole path, or its end."""
    return entry == key or key.endswith(f".{entry}")


def _chosen(keys: list[str], entry: str | None, source: str) -> tuple[str, list[str]]:
    if entry is not None:
        meant = [key for key in keys if _names(entry, key)]
        if len(meant) == 1:
            return meant[0], [f"entry {meant[0]!r} read"]
        if len(keys) > 1:
            raise CorruptSourceError(
                f"Source {source!r} has no entry {entry!r} of its own. Its networks are {_listed(keys)}: "
                f"entry={keys[0]!r}."
            )
    if len(keys) == 1:
        return keys[0], [f"entry {keys[0]!r} read"] if keys[0] else []
    usual = [key for name in PREFERRED for key in keys if key.rpartition(".")[2] == name]
    if "" in keys or not usual:
        raise CorruptSourceError(
            f"Source {source!r} holds {len(keys)} networks: {_listed(keys)}. Say which one is meant: "
            f"entry={max(keys)!r}."
        )
    others = [key for key in keys if key != usual[0]]
    return usual[0], [f"entry {usual[0]!r} read, not {_listed(others)} (entry={others[0]!r} takes that)"]


def _listed(keys: list[str]) -> str:
    return ", ".join(repr(key) if key else "the outermost names" for key in keys[:8])


def _chosen_module(tensors: dict[str, Tensor], entry: str | None, source: str) -> tuple[dict[str, Tensor], list[str]]:
    """Of names that hold two networks the one that is meant; without what only the training needs."""
    if entry is not None:
        inside = _below(tensors, entry)
        if not inside:
            tops = list(dict.fromkeys(name.partition(".")[0] for name in tensors))
            raise CorruptSourceError(
                f"Source {source!r} has no entry {entry!r}; its names begin with {_listed(tops)}. "
                f"Leave entry out, or take one of them: entry={tops[0]!r}."
            )
        return _without_training(inside, [f"entry {entry!r} read"])
    for taken, other in TWINS:
        here, there = _below(tensors, taken), _below(tensors, other)
        if there and _same_network(here, there):
            return _without_training(here, [f"entry {taken!r} read, not {other!r} (entry={other!r} takes that)"])
    return _without_training(tensors, [])


def _below(tensors: Mapping[str, Tensor], module: str) -> dict[str, Tensor]:
    """The tensors with this module in their names, what leads there taken off."""
    found = {}
    for name, tensor in tensors.items():
        _, inside, rest = f".{name}".partition(f".{module}.")
        if inside:
            found[rest] = tensor
    return found


def _same_network(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    shared = [name for name in one.keys() & other.keys() if one[name].shape == other[name].shape]
    return 2 * len(shared) > max(len(one), len(other)) > 0


def _without_training(tensors: dict[str, Tensor], notes: list[str]) -> tuple[dict[str, Tensor], list[str]]:
    left_out = [name for name in tensors if TRAINING_ONLY.match(name)]
    if not left_out or len(left_out) == len(tensors):
        return tensors, notes
    tops = list(dict.fromkeys(re.sub(r"\d+$", "", name.split(".")[0]) for name in left_out))
    kept = {name: tensor for name, tensor in tensors.items() if name not in set(left_out)}
    return kept, [*notes, f"dropped {len(left_out)} tensors of its training ({', '.join(tops[:6])})"]
