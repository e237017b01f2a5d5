"""Which weights these are: sha256 of converted tensors, and sources that are the same twice."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..errors import ChangedSourceError, DuplicateSourceError
from ..sources.reference import SourceReference
from .state_dict import ConvertedSource


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names and values, in the order of the names: two equal state dicts have the same.

    Example:
        >>> import torch
        >>> fingerprint({"weight": torch.zeros(2)})[:8]
        '3688caee'
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def identify(
    references: Sequence[SourceReference], converted: Sequence[ConvertedSource], known: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Describe the sources of a merge, by what their weights are.

    Args:
        references: where they come from.
        converted: their weights under the anchor's names.
        known: an earlier answer that they must agree with, or nothing. What it says of a Hub repository stays, though
            the same weights may come from elsewhere now.

    Returns:
        One dict a source, for the config.

    Raises:
        DuplicateSourceError: two sources hold the same weights.
        ChangedSourceError: a source holds other weights than it did.
    """
    prints = [fingerprint(source.tensors) for source in converted]
    for index, print_ in enumerate(prints):
        if print_ in prints[:index]:
            first = prints.index(print_)
            raise DuplicateSourceError(
                f"Sources {first} ({references[first].id!r}) and {index} ({references[index].id!r}) hold the same "
                "weights. Name each source once."
            )
    for before, reference, print_ in zip(known, references, prints, strict=False):
        if before["sha256"] != print_:
            raise ChangedSourceError(
                f"Source {reference.id!r} is not the one that was merged: its weights have sha256 {print_[:12]} now, "
                f"{before['sha256'][:12]} when it was merged. Name where those weights are: sources=[...]."
            )
    described = []
    for index, (reference, source) in enumerate(zip(references, converted, strict=True)):
        found = dataclasses.replace(reference, sha256=prints[index], notes=tuple(source.notes))
        on_hub = index < len(known) and known[index]["revision"]
        described.append(dict(known[index]) if on_hub else found.to_dict())
    return described
