"""A source as it was read -> the anchor's names, network and input, each step noted and, where it can be, verified."""

import copy
import dataclasses
import logging
from typing import Any

from torch import Tensor

from ..errors import ArchitectureMismatchError
from ..networks.backbone import backbone_buffers, backbone_parameters, head_modules, is_bound
from ..networks.build import architecture_name, input_shape
from ..networks.features import feature_difference
from ..networks.input_convention import InputConvention
from ..sources.reference import LoadedSource, NetworkVariant
from .case import Case, under_the_anchors_names, without_classifier
from .folding import fold_eps, fold_input
from .original import check_description, original_of
from .position_embeddings import resampled
from .state_dict import ConvertedSource, check_values, convert_state_dict, several
from .verification import (
    TOLERANCE,
    align_layer_norms,
    apply_variant,
    differences,
    noise,
    structure_differences,
    with_tensors,
)


logger = logging.getLogger(__name__)


def convert_onto(
    network: Any,
    source: LoadedSource,
    anchor_input: InputConvention | None = None,
    anchor: bool = False,
    statistics: bool = False,
) -> ConvertedSource:
    """Bring a source under the names of a network's backbone, into its variant, and to its input.

    Args:
        network: a plain classifier of the anchor's architecture.
        source: as it was read. Of empty tensors (meta device) names and shapes are converted, nothing is verified.
        anchor_input: what the network is given; by default what the source was given.
        anchor: whether the floating point buffers (BatchNorm statistics) are wanted too.
        statistics: whether they are returned where there are some.

    Returns:
        Its tensors, by their names below the backbone, and notes.

    Raises:
        ArchitectureMismatchError: names, shapes or what the network computes do not fit.
        SourceError: what [`conversion.convert_state_dict`] raises.
    """
    like_anchor = check_description(source, network)
    case = under_the_anchors_names(network, source)
    case.like_anchor = like_anchor
    _refuse_unfoldable(case)
    wanted: dict[str, Tensor] = dict(backbone_parameters(network))
    if case.headless and not anchor:
        kept = len(wanted)
        wanted = without_classifier(wanted)
        case.notes += ["its classifier's hidden layers are not there: the anchor's stay"] if len(wanted) < kept else []
    if wanted.keys() <= case.pairs.keys():  # otherwise convert_state_dict says what is missing
        _check_statistics(case)
        _adapt(case, anchor_input)
    buffers = backbone_buffers(network)
    if anchor:
        own = _without_bounds(case)
        wanted |= {name: buffer for name, buffer in buffers.items() if buffer.is_floating_point() and name in own}
    try:
        found = convert_state_dict(
            case.tensors,
            wanted,
            optional=buffers.keys() - wanted.keys(),
            head=head_modules(network),
            source=case.name,
            architecture=architecture_name(network),
        )
    except ArchitectureMismatchError as error:
        raise ArchitectureMismatchError(f"{error} {source.hint}".strip()) from error
    pairs = {ours: case.origin.get(theirs, theirs) for ours, theirs in case.pairs.items()}
    found = dataclasses.replace(found, notes=[*source.notes, *case.notes, *found.notes], pairs=pairs)
    logger.info("Source %s: %s.", case.name, "; ".join(found.notes))
    return found if anchor or statistics else found.only(wanted)


def _refuse_unfoldable(case: Case) -> None:
    if (unfoldable := differences(case.network, case.variant)) and not case.variant.accept:
        raise ArchitectureMismatchError(
            f"Source {case.name!r} differs from the anchor in {' and '.join(unfoldable)}, which no change of weights "
            f"makes good. Take a checkpoint without that, or merge it all the same: variant={accepting(case)}."
        )


def accepting(case: Case) -> dict[str, Any]:
    """What the user said of a variant, and that it is to be merged."""
    stated, plain = dataclasses.asdict(case.variant), dataclasses.asdict(NetworkVariant())
    return {key: value for key, value in stated.items() if value != plain[key]} | {"accept": True}


def _check_statistics(case: Case) -> None:
    """GroupNorm and LayerNorm have the names and shapes of BatchNorm, but no statistics."""
    buffers = [name for name, buffer in backbone_buffers(case.network).items() if buffer.is_floating_point()]
    absent = [name for name in buffers if name not in case.pairs]
    if absent and not case.variant.accept:
        raise ArchitectureMismatchError(
            f"Source {case.name!r} holds no {several(absent, 2)}: {architecture_name(case.network)} has BatchNorm "
            "there, the source another norm layer (GroupNorm, LayerNorm), which computes something else, or it was "
            "saved without its statistics. Merge networks of one norm layer; if it is BatchNorm: "
            "variant={'accept': True}."
        )
    if absent:
        case.notes.append(f"no statistics for {len(absent) // 2} BatchNorm layers, accepted")


def _adapt(case: Case, anchor_input: InputConvention | None) -> None:
    check_values(_without_bounds(case), case.name)
    _resample_positions(case)
    if not case.resampled:
        case.original = original_of(case)
    fold_eps(case)
    if case.source.run is not None and not case.resampled:
        case.original = case.source.run
    if case.empty:
        _compare_structure(case)
    else:
        _verify(case)
    fold_input(case, anchor_input)


def _without_bounds(case: Case) -> dict[str, Tensor]:
    buffers = backbone_buffers(case.network)
    return {name: tensor for name, tensor in case.own().items() if name not in buffers or not is_bound(tensor)}


def _resample_positions(case: Case) -> None:
    for name, wanted in backbone_parameters(case.network).items():
        tensor = case.tensors.get(case.prefix + name)
        if tensor is None:  # of a VGG's classifier
            continue
        found = resampled(name, tensor, wanted)
        if found is not None:
            case.tensors[case.prefix + name] = found
            case.notes.append(f"{name} resampled from {tuple(tensor.shape)} to {tuple(wanted.shape)}")
            case.resampled, case.original = True, None


def _compare_structure(case: Case) -> None:
    """Of weights that have not been read, what their networks tell."""
    if case.original is None or case.variant.accept:
        return
    if found := structure_differences(case.original, case.backbone, case.pairs):
        raise _another_network(case, found)


def _verify(case: Case) -> None:
    """Run original and anchor's network on the same images; refuse what differs and was not accepted."""
    unfoldable = differences(case.network, case.variant)
    if case.original is None:
        if case.notes and case.source.reference.variant is None:
            why = "it was made for another image size" if case.resampled else "its own network is not known"
            case.notes.append(f"not verified: {why}")
        return
    size = getattr(case.original, "only_size", None) or input_shape(case.network)[1:]
    images = noise(case.channels, *size)
    ours = with_tensors(case.network, case.own(), case.below, case.stems)
    if case.headless:
        ours = ours.get_submodule(case.below).get_submodule("features")
        case.original = getattr(case.original, "features", case.original)
    aligned = align_layer_norms(copy.deepcopy(case.original), ours)
    difference = feature_difference(aligned or case.original, ours, images)
    tolerance = getattr(case.original, "precision", TOLERANCE)
    if difference < tolerance:
        case.notes.append(f"features equal to {difference:.1g}")
    elif not case.variant.accept:
        found = structure_differences(case.original, case.backbone, case.pairs)
        raise _another_network(case, found, f" (relative difference {difference:.2g})")
    real = apply_variant(copy.deepcopy(case.original), case.variant)
    if difference >= tolerance or unfoldable or aligned is not None:
        apart = feature_difference(real, ours, images)
        what = ", ".join(unfoldable) or ("another LayerNorm eps" if aligned is not None else "another network")
        case.notes.append(f"{what}: features differ by {apart:.2g}")
    case.original = real


def _another_network(case: Case, found: list[str], measured: str = "") -> ArchitectureMismatchError:
    if case.by_order:
        return ArchitectureMismatchError(
            f"Source {case.name!r} has names that nobody knows; paired by shape and order, it computes other features "
            f"than {architecture_name(case.network)}{measured}. Merge checkpoints of one network, under its names. "
            f"{case.source.hint}".strip()
        )
    return ArchitectureMismatchError(
        f"Source {case.name!r} has the shapes of {architecture_name(case.network)} but is another network: with its "
        f"weights the anchor computes other features{measured}{': ' + '; '.join(found) if found else ''}. Merge "
        "checkpoints of one network, or accept the difference: variant={'accept': True}."
    )
