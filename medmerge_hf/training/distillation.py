"""What a student learns from trained networks beside its labels, of labelled images and of images without labels."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset
from transformers.modeling_outputs import ImageClassifierOutput

from ..errors import SettingsError
from ..networks.preprocessing import Preprocessing, resolve_preprocessing
from .losses import counted


UNLABELLED = "unlabelled"  # key of a batch

MIXED = 1.0  # both parameters of the beta distribution that shares are drawn from; 1 draws them evenly


class Teachers(nn.Module):
    """Trained networks whose mean prediction a student learns (Hinton et al., arXiv 1503.02531). They learn nothing.

    Args:
        networks: classifiers of the student's classes: a [`MedMergeModel`], a network of transformers, or a module
            that returns logits. One with an image processor gets the student's images as that one normalises them, any
            other as they are.
        weights: of the mean, one a network, of any sum above 0; the same for each by default.

    Raises:
        SettingsError: no network, or weights that fit none.

    Example:
        >>> teachers = Teachers([nn.Flatten(), nn.Flatten()], weights=[3, 1])
        >>> teachers(torch.zeros(1, 1, 1, 2)).tolist()
        [[0.5, 0.5]]
    """

    def __init__(self, networks: Sequence[nn.Module], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        shares = torch.ones(len(networks)) if weights is None else torch.tensor([float(one) for one in weights])
        if not len(networks) or len(shares) != len(networks) or shares.min() < 0 or not shares.sum() > 0:
            raise SettingsError(
                f"{len(networks)} teachers with weights {weights}: give at least one teacher, and a weight from 0 on "
                "for each, not all of them 0."
            )
        self.networks = nn.ModuleList(networks)
        self.shares = (shares / shares.sum()).tolist()
        self.pixels: list[tuple[Tensor, Tensor] | None] = [None] * len(networks)
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "Teachers":
        """They never train."""
        return super().train(False)

    def fit_to(self, student: Any) -> "Teachers":
        """Check that they know the student's classes, and how its images become theirs.

        Args:
            student: the model that learns.

        Returns:
            They themselves.

        Raises:
            SettingsError: other classes, another image size, or the student is its own teacher.
        """
        for place, network in enumerate(self.networks):
            if network is student or network is getattr(student, "network", None):
                raise SettingsError(f"teachers[{place}] is the student itself: give a trained copy of it.")
            _check_classes(f"teachers[{place}]", network, student)
        own = _preprocessing(student)
        theirs = [_preprocessing(network) for network in self.networks]
        self.pixels = [_change(f"teachers[{place}]", own, other) for place, other in enumerate(theirs)]
        return self

    @torch.no_grad()
    def forward(self, pixel_values: Tensor, temperature: float = 1.0, multi_label: bool = False) -> Tensor:
        """Mean probabilities, `[N, K]`, float32.

        Args:
            pixel_values: `[N, C, H, W]`, as the student gets them.
            temperature: by which logits are divided.
            multi_label: each label has a probability of its own.
        """
        found = torch.zeros(())
        for network, share, change in zip(self.networks, self.shares, self.pixels, strict=True):
            logits = _logits(network(_changed(pixel_values, change))).float() / temperature
            found = share * (logits.sigmoid() if multi_label else logits.softmax(dim=-1)) + found.to(logits.device)
        return found


def _logits(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    return output["logits"] if isinstance(output, Mapping) else output[0]


def _check_classes(name: str, teacher: Any, student: Any) -> None:
    theirs, ours = (getattr(getattr(model, "config", None), "id2label", None) for model in (teacher, student))
    if theirs is None or ours is None:
        return
    if list(theirs.values()) != list(ours.values()):
        raise SettingsError(
            f"{name} predicts {list(theirs.values())}, the student {list(ours.values())}: a teacher has the same "
            "classes in the same order. Train it with id2label of the student."
        )


def _preprocessing(model: Any) -> Preprocessing | None:
    return resolve_preprocessing(model) if getattr(model, "image_processor", None) is not None else None


def _change(name: str, own: Preprocessing | None, other: Preprocessing | None) -> tuple[Tensor, Tensor] | None:
    """From the student's pixels to a teacher's, `matrix @ pixel + offset`; `None` where they are the same."""
    if own is None or other is None:
        return None
    if (own.size, own.channels) != (other.size, other.channels):
        raise SettingsError(
            f"{name} sees {other.channels} channels of {other.size[0]} x {other.size[1]} pixels, the student "
            f"{own.channels} of {own.size[0]} x {own.size[1]}: build both with the same image_size."
        )
    if torch.equal(own.matrix, other.matrix) and torch.equal(own.offset, other.offset):
        return None
    matrix = other.matrix.double() @ own.matrix.double().inverse()
    offset = other.offset.double() - matrix @ own.offset.double()
    return matrix.float(), offset.float()


def _changed(pixels: Tensor, change: tuple[Tensor, Tensor] | None) -> Tensor:
    if change is None:
        return pixels
    matrix, offset = (values.to(pixels) for values in change)
    return functional.conv2d(pixels, matrix[:, :, None, None], offset)


class WithUnlabelled(Dataset[dict[str, Any]]):
    """Labelled images, each with one that has no label, drawn anew at every access.

    So a batch holds as many of the one kind as of the other, and whatever shards, skips or repeats labelled images (a
    sampler, Accelerate, a resumed run) does so with the others.

    Args:
        labelled: of a `Trainer`; an epoch goes over these.
        unlabelled: items with `pixel_values`.

    Raises:
        SettingsError: there are none, or the labelled ones cannot be counted.
    """

    def __init__(self, labelled: Any, unlabelled: Any) -> None:
        if not hasattr(labelled, "__len__") or not len(unlabelled):
            raise SettingsError("unlabelled_dataset needs images in it, and a train_dataset that can be counted.")
        self.labelled, self.unlabelled = labelled, unlabelled

    def __len__(self) -> int:
        return len(self.labelled)

    def __getitem__(self, index: int) -> dict[str, Any]:
        drawn = int(torch.randint(len(self.unlabelled), ()))
        place = (drawn + index) % len(self.unlabelled)  # processes that draw alike do not take the same image
        return {**self.labelled[index], UNLABELLED: self.unlabelled[place]["pixel_values"]}


class MixedImages(Dataset[dict[str, Tensor]]):
    """Images, each mixed with another one (mixup, Zhang et al., arXiv 1710.09412), for a student to learn from.

    Teachers see the mixed image too and say what it is, so that it needs no label ("function matching", Beyer et al.,
    arXiv 2106.05237).

    Args:
        images: items with `pixel_values`.
    """

    def __init__(self, images: Any) -> None:
        self.images = images
        self.transform = getattr(images, "transform", None)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        other = int(torch.randint(len(self.images), ()))
        share = float(torch.distributions.Beta(MIXED, MIXED).sample())
        first, second = (self.images[place]["pixel_values"] for place in (index, other))
        return {"pixel_values": share * first + (1 - share) * second}


class Lesson(NamedTuple):
    """What a batch is compared with.

    Attributes:
        labels: `[N]` or `[N, K]`, of its first N images.
        probabilities: `[M, K]`, what the teachers say of all its images; M is a multiple of N.
    """

    labels: Tensor
    probabilities: Tensor

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels."""
        return self.labels.ndim == 2


@dataclasses.dataclass(frozen=True)
class DistillationLoss:
    """`(1 - weight) * task + weight * divergence` from the teachers' probabilities, as a `Trainer` takes it.

    The divergence is Kullback and Leibler's of the tempered probabilities, times the square of the temperature
    (Hinton et al., arXiv 1503.02531); of several labels the mean over them. Like [`TaskLoss`] it adds up over
    micro-batches and processes.

    Args:
        task: loss of the labelled images.
        weight: of the divergence, from 0 to 1.
        temperature: above 0.

    Example:
        >>> same = torch.tensor([[1.0, 0.0]])
        >>> loss = DistillationLoss(lambda *_, **__: torch.tensor(7.0), 1.0)
        >>> float(loss({"logits": same}, Lesson(torch.tensor([0]), same.softmax(dim=1))))
        0.0
    """

    task: Callable[..., Tensor]
    weight: float
    temperature: float = 1.0

    def __call__(self, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Tensor:
        """The loss of a batch, or its part of that of a whole step.

        Args:
            outputs: of the network.
            labels: a [`Lesson`]; labels alone (in an evaluation) leave the task's loss.
            num_items_in_batch: how many labels the step has in all; by default those of this batch.
        """
        if not isinstance(labels, Lesson):
            return self.task(outputs, labels, num_items_in_batch=num_items_in_batch)
        logits = _logits(outputs)
        first = ImageClassifierOutput(logits=logits[: len(labels.labels)])
        task = self.task(first, labels.labels, num_items_in_batch=num_items_in_batch)
        return (1 - self.weight) * task + self.weight * self._divergence(logits.float(), labels, num_items_in_batch)

    def _divergence(self, logits: Tensor, lesson: Lesson, items: Any) -> Tensor:
        copies = len(lesson.probabilities) // len(lesson.labels)
        counts, items = counted(lesson.labels.to(logits.device), items)
        student = logits / self.temperature
        if lesson.multi_label:
            each = _binary_divergence(student, lesson.probabilities)
        else:
            student = student.log_softmax(dim=-1)
            each = functional.kl_div(student, lesson.probabilities, reduction="none").sum(dim=-1)
        whole = (each * torch.cat([counts] * copies)).sum() * self.temperature**2
        return whole / (items * copies)


def _binary_divergence(logits: Tensor, probabilities: Tensor) -> Tensor:
    """Of each label by itself, `[N, K]`."""
    ours = functional.binary_cross_entropy_with_logits(logits, probabilities, reduction="none")
    return ours - functional.binary_cross_entropy(probabilities, probabilities, reduction="none")
