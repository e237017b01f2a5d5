"""A source's state dict, brought under the anchor's names and checked tensor by tensor."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..errors import ArchitectureMismatchError, CorruptSourceError, NonFiniteSourceError
from ..sources.place import advice


# First name of what sits on top of a backbone, in the libraries that checkpoints come from.
HEADS = {
    *(
        "AuxLogits",
        "aux_classifier",
        "classif",
        "classifier",
        "fc",
        "head",
        "head_dist",
        "heads",
        "last_linear",
        "linear",
    ),
    *("lm_head", "logits", "op_threshs", "pooler", "projection"),
    *("cls_classifier", "distillation_classifier", "classifier_distill"),  # of DeiT and LeViT with a teacher
    *("text_model", "text_projection", "visual_projection", "logit_scale", "logit_bias"),  # CLIP's other tower
}


@dataclasses.dataclass(frozen=True)
class ConvertedSource:
    """A source under the anchor's names.

    Args:
        tensors: name -> tensor.
        notes: what was done to get there, a phrase each.
        dropped: names, in the checkpoint, that stand for nothing of the anchor's.
        pairs: name -> (first) name in the checkpoint.
    """

    tensors: dict[str, Tensor]
    notes: list[str]
    dropped: list[str] = dataclasses.field(default_factory=list)
    pairs: dict[str, str] = dataclasses.field(default_factory=dict)

    def only(self, names: Iterable[str]) -> "ConvertedSource":
        """The same with these tensors alone, as far as it has them."""
        kept = {name: self.tensors[name] for name in names if name in self.tensors}
        return dataclasses.replace(self, tensors=kept)

    def without(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The floating point tensors that are not among these."""
        left = self.tensors.keys() - set(names)
        return {name: self.tensors[name] for name in left if self.tensors[name].is_floating_point()}


def find_prefix(names: Iterable[str], wanted: Iterable[str]) -> str:
    """The wrapper prefix (`module.`, `model.backbone.`, ...) under which most wanted names are found.

    Args:
        names: names of a checkpoint.
        wanted: names of the anchor's backbone.

    Returns:
        The prefix with its dot, or an empty string.

    Raises:
        ArchitectureMismatchError: two prefixes hold the network (a student and its average, say).

    Example:
        >>> find_prefix(["module.conv1.weight", "module.fc.weight"], ["conv1.weight"])
        'module.'
    """
    wanted = set(wanted)
    votes: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in wanted:
                votes[".".join([*parts[:start], ""]) if start else ""] += 1
    if not votes:
        return ""
    (best, count), *others = votes.most_common(2)
    if others and others[0][1] == count and 2 * count > len(wanted):
        raise ArchitectureMismatchError(
            f"The names fit under both {best!r} and {others[0][0]!r} ({count} tensors each). Say which of the "
            f"networks is meant: entry={best.rstrip('.').rpartition('.')[2]!r}."
        )
    return best


def shared_prefix(names: Iterable[str]) -> str:
    """The wrapper that all names begin with, with its dot, or an empty string.

    Example:
        >>> shared_prefix(["module.conv1.weight", "module.fc.weight"])
        'module.'
    """
    parts = [name.split(".")[:-1] for name in names]
    shared = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return ".".join([*shared, ""]) if shared else ""


def several(names: Iterable[str], shown: int = 4) -> str:
    """The first few of many names."""
    names = sorted(names)
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def _check_names(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: str, architecture: str) -> None:
    missing = wanted.keys() - found.keys()
    if missing:
        raise ArchitectureMismatchError(
            f"Source {source!r} is not the anchor's architecture {architecture}: {len(missing)} of {len(wanted)} "
            f"tensors are missing ({several(missing)}). It holds {several(found)}. Merge checkpoints of one "
            "architecture, under its names."
        )
    shapes = [
        f"{name} is {list(found[name].shape)}, the anchor's {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if found[name].shape != tensor.shape
    ]
    if shapes:
        raise ArchitectureMismatchError(
            f"Source {source!r} has other shapes than the anchor ({architecture}): {several(shapes, 2)}. "
            "Only networks of the same architecture and width can be merged."
        )


def check_rest(rest: Iterable[str], head: Iterable[str], source: str, architecture: str) -> None:
    """Refuse what is left over, unless it is a head or a counter: it would be another, larger network.

    Args:
        rest: names that stand for nothing of the anchor's.
        head: module names of the anchor's classification head.
        source: how errors call this source.
        architecture: how errors call the anchor's architecture.

    Raises:
        ArchitectureMismatchError: a name is neither.
    """
    heads = HEADS | {name.split(".")[0] for name in head}
    counters = ("num_batches_tracked", "position_ids", "relative_position_index")
    extra = [name for name in rest if not name.endswith(counters) and name.split(".")[0] not in heads]
    if extra:
        raise ArchitectureMismatchError(
            f"Source {source!r} holds {len(extra)} tensors that the anchor's architecture {architecture} does not "
            f"have ({several(extra)}). It is another network; nothing of it is dropped silently."
        )


def check_values(tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse integers, NaN and infinity. Of empty tensors (meta device) the values are not known.

    Args:
        tensors: name -> tensor.
        source: how errors call this source.

    Raises:
        CorruptSourceError: a tensor is not floating point.
        NonFiniteSourceError: a tensor holds NaN or infinity.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.dtype.itemsize == 1:
            raise CorruptSourceError(
                f"Source {source!r} stores {name} as {tensor.dtype}: quantised or integer weights, float8 too, cannot "
                f"be blended as they are. {advice(source)}"
            )
        if tensor.is_meta:
            continue
        bad = tensor.numel() - int(torch.isfinite(tensor).sum())
        if bad:
            raise NonFiniteSourceError(
                f"Source {source!r} holds {bad} NaN or infinite values in {name} (of {tensor.numel()}). "
                "Take another checkpoint of that training: this one has diverged."
            )


def convert_state_dict(
    raw: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    *,
    optional: Iterable[str] = (),
    head: Iterable[str] = (),
    source: str = "source",
    architecture: str = "the anchor",
) -> ConvertedSource:
    """Pick the wanted tensors out of a checkpoint.

    Args:
        raw: the checkpoint, under its own names.
        wanted: name -> tensor of the anchor's backbone (only the shapes are read).
        optional: names that may be absent and are returned where present (buffers).
        head: module names of the anchor's classification head; what lies below them is dropped.
        source: how errors and logs call this source.
        architecture: how errors call the anchor's architecture.

    Returns:
        The wanted tensors (floating point ones as float32) and those of `optional` that were found, with notes.

    Raises:
        ArchitectureMismatchError: a tensor is missing, left over or of another shape.
        CorruptSourceError: a wanted tensor is not floating point.
        NonFiniteSourceError: a wanted tensor holds NaN or infinity.
    """
    prefix = find_prefix(raw, wanted)
    inside = {name[len(prefix) :]: tensor for name, tensor in raw.items() if name.startswith(prefix)}
    _check_names(inside, wanted, source, architecture)
    optional = set(optional)
    rest = inside.keys() - wanted.keys() - optional
    check_rest(rest, head, source, architecture)
    tensors = {name: inside[name] for name in wanted}
    check_values(tensors, source)
    left_over = [*(prefix + name for name in rest), *(name for name in raw if not name.startswith(prefix))]
    dropped = [name.removeprefix(prefix) for name in left_over if raw[name].is_floating_point()]
    notes = [f"{len(tensors)} tensors matched"]
    notes += [f"prefix {prefix!r} removed"] if prefix else []
    notes += [f"dropped {several(dropped)} (not part of the backbone)"] if dropped else []
    found = {name: tensor.detach().to(torch.float32) for name, tensor in tensors.items()}
    return ConvertedSource(found | {name: inside[name].detach() for name in optional & inside.keys()}, notes, dropped)
