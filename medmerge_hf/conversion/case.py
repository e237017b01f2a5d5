"""One source on its way to an anchor: its tensors under the anchor's names, and what was noted on the way."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArchitectureMismatchError
from ..networks.backbone import (
    backbone_module,
    backbone_parameters,
    backbone_prefix,
    backbone_state,
    is_timm,
    second_names,
)
from ..networks.build import architecture_name, input_shape
from ..networks.timm_config import CLASSIFIER, lacks_classifier
from ..sources.reference import BY_ORDER, LoadedSource, NetworkVariant
from .input_folding import find_stems
from .name_maps import PAIRED, Names, Translation, torchvision_original, translate
from .name_maps_packages import dialects_of
from .native_names import in_memory
from .state_dict import find_prefix, shared_prefix
from .unfolding import unfold


@dataclasses.dataclass
class Case:
    """One source on its way to an anchor.

    Args:
        network: a plain classifier of the anchor's architecture.
        source: as it was read; of a transformers anchor by the names that its library has in memory.
        tensors: by the anchor's names, behind `prefix`.
        pairs: the anchor's name -> the source's.
        prefix: what wraps the anchor's names.
        origin: name in `source` -> name in the checkpoint, where they differ.
        original: the network that the source's names belong to, with its weights, where it can be had.
        notes: a phrase for each thing that was done.
        resampled: whether it was made for another image size.
        like_anchor: whether it was run and found to be the anchor's network.
        by_order: whether its names told nothing.
        headless: whether it lacks the hidden layers of a VGG's classifier.
    """

    network: Any
    source: LoadedSource
    tensors: dict[str, Tensor]
    pairs: dict[str, str]
    prefix: str = ""
    origin: Mapping[str, str] = dataclasses.field(default_factory=dict)
    original: nn.Module | None = None
    notes: list[str] = dataclasses.field(default_factory=list)
    resampled: bool = False
    like_anchor: bool = False
    by_order: bool = False
    headless: bool = False

    @property
    def name(self) -> str:
        """How errors call the source."""
        return self.source.reference.id

    @property
    def variant(self) -> NetworkVariant:
        """In what its network differs, as far as the user said."""
        return self.source.reference.variant or NetworkVariant()

    @property
    def empty(self) -> bool:
        """Whether names and shapes are known alone."""
        return any(tensor.is_meta for tensor in self.tensors.values())

    @property
    def backbone(self) -> nn.Module:
        """The anchor's."""
        return backbone_module(self.network)

    @property
    def below(self) -> str:
        """Name of the backbone in the anchor's network; empty where it is the network itself."""
        return backbone_prefix(self.network).removesuffix(".")

    @property
    def stems(self) -> dict[str, str | None]:
        """The anchor's convolutions that see the image, see [`find_stems`]."""
        cfg = getattr(self.network.config, "pretrained_cfg", None) or {}
        return find_stems(self.backbone, cfg.get("first_conv"), input_shape(self.network)[0])

    @property
    def channels(self) -> int:
        """Of the images that the source takes."""
        stem = next(iter(self.stems), None)
        weight = self.tensors.get(f"{self.prefix}{stem}.weight")
        return input_shape(self.network)[0] if weight is None else weight.shape[1]

    def own(self) -> dict[str, Tensor]:
        """The backbone's tensors, the prefix taken off."""
        return {name: self.tensors[self.prefix + name] for name in self.pairs}


def under_the_anchors_names(network: Any, source: LoadedSource) -> Case:
    """Recognise a source's names.

    Args:
        network: a plain classifier of the anchor's architecture.
        source: as it was read.

    Returns:
        The case; names that nobody knows are kept as they are.

    Raises:
        ArchitectureMismatchError: a key map that does not lead to the anchor's names, or one tensor of the anchor's
            that the source holds twice with two values.
    """
    key_map = source.reference.key_map
    origin: dict[str, str] = {}
    if not is_timm(network) and not key_map:
        tensors, origin = in_memory(network, source.tensors)
        source = dataclasses.replace(source, tensors=tensors)
    wanted = backbone_state(network)
    headless = lacks_classifier(backbone_module(network).state_dict(), source.tensors)
    wanted = without_classifier(wanted) if headless else wanted
    prefix = "" if key_map else find_prefix(source.tensors, wanted)
    source = _named_once(network, source, prefix)
    found = None
    if not key_map:
        _ask(source)
    source, notes = (source, []) if key_map else _unfolded(network, source, wanted)
    needed = {prefix + name for name in backbone_parameters(network) if name in wanted}
    if key_map or not needed <= source.tensors.keys():
        found = _translated(network, source, wanted)
    if found is not None:
        return dataclasses.replace(_translated_case(network, source, found, wanted, origin, notes), headless=headless)
    pairs = {name: prefix + name for name in wanted if prefix + name in source.tensors}
    return Case(network, source, dict(source.tensors), pairs, prefix, origin, notes=notes, headless=headless)


def without_classifier(names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's tensors without the hidden layers of a VGG's classifier."""
    return {name: tensor for name, tensor in names.items() if not name.startswith(f"{CLASSIFIER}.")}


def _named_once(network: Any, source: LoadedSource, prefix: str) -> LoadedSource:
    """A tensor that stands in two places of the network may be stored under either name, or both."""
    tensors = dict(source.tensors)
    for again, first in second_names(backbone_module(network)).items():
        second = tensors.pop(prefix + again, None)
        if second is None:
            continue
        one = tensors.setdefault(prefix + first, second)
        if one.shape != second.shape or not (one.is_meta or torch.equal(one, second)):
            raise ArchitectureMismatchError(
                f"Source {source.reference.id!r} holds {first} and {again} with different values; in "
                f"{architecture_name(network)} they are one tensor. It is another network."
            )
    return dataclasses.replace(source, tensors=tensors)


def _translated(network: Any, source: LoadedSource, wanted: Mapping[str, Tensor]) -> Translation | None:
    key_map = source.reference.key_map
    names = Names(source.tensors, wanted, backbone_module(network), architecture_name(network), source.network_config)
    found = translate(names, key_map)
    strange = source.module is not None or (source.run is not None and not _mostly_there(source, wanted))
    if found is None and strange:  # names tell nothing; running it will tell
        found = translate(names, BY_ORDER)
    if found is None and key_map:
        raise ArchitectureMismatchError(
            f"Source {source.reference.id!r}: its key_map {key_map!r} does not lead to the names of "
            f"{architecture_name(network)} one-to-one. `medmerge inspect` shows both."
        )
    return found


def _ask(source: LoadedSource) -> None:
    """What a package's names leave open, the user has to say."""
    asked = [dialect for dialect in dialects_of(source.tensors) if dialect.ask]
    if asked and source.reference.variant is None:
        raise ArchitectureMismatchError(
            f"Source {source.reference.id!r} has the names of {asked[0].name}. {asked[0].ask}"
        )


def _mostly_there(source: LoadedSource, wanted: Mapping[str, Tensor]) -> bool:
    """Whether most names of a source are the anchor's."""
    prefix = find_prefix(source.tensors, wanted)
    return 2 * sum(prefix + name in source.tensors for name in wanted) > len(wanted)


def _unfolded(network: Any, source: LoadedSource, wanted: Mapping[str, Tensor]) -> tuple[LoadedSource, list[str]]:
    """A source with the BatchNorms that an export folded, by the anchor's names or torchvision's."""
    eps = source.reference.variant.bn_eps if source.reference.variant else None
    tensors, notes = unfold(source.tensors, backbone_module(network), eps)
    if not notes and not _mostly_there(source, wanted):
        original = torchvision_original(architecture_name(network))
        tensors, notes = unfold(source.tensors, original, eps) if original is not None else (tensors, notes)
    return (dataclasses.replace(source, tensors=tensors) if notes else source), notes


def _translated_case(
    network: Any,
    source: LoadedSource,
    found: Translation,
    wanted: Mapping[str, Tensor],
    origin: Mapping[str, str],
    notes: list[str],
) -> Case:
    source = _with_variant(source, found)
    given, rest = source.tensors if found.tensors is None else found.tensors, found.rest
    if rest is None:
        used = {name for theirs in found.pairs.values() for name in theirs}
        shared = shared_prefix(given)
        rest = {name.removeprefix(shared): name for name in given if name not in used}
    tensors = {name: given[own] for name, own in rest.items()} | found.apply(given, wanted)
    pairs = {ours: theirs[0] for ours, theirs in found.pairs.items()}
    original = found.original() if found.original is not None else None
    notes, by_order = [*notes, found.note], found.note.startswith(PAIRED)
    return Case(network, source, tensors, pairs, origin=origin, original=original, notes=notes, by_order=by_order)


def _with_variant(source: LoadedSource, found: Translation) -> LoadedSource:
    """The source with what its names tell of its network."""
    reference = source.reference
    if found.variant is None:
        return source
    variant = (reference.variant or NetworkVariant()).or_else(found.variant)
    return dataclasses.replace(source, reference=dataclasses.replace(reference, variant=variant))
