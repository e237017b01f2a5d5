"""`Trainer` with a loss that adds up over the parts of a step, and with teachers where it is given some."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import SettingsError
from .distillation import UNLABELLED, DistillationLoss, Lesson, Teachers, WithUnlabelled
from .hub_trainer import HubTrainer
from .losses import IGNORED, TaskLoss
from .training_args import DISTILLATION_TEMPERATURE, DISTILLATION_WEIGHT


class TaughtTrainer(HubTrainer):
    """`transformers.Trainer` whose model learns labels by [`TaskLoss`], and what teachers say of the same images.

    Args:
        args: of `Trainer`.
        teachers: trained networks, or [`Teachers`] with weights.
        unlabelled_dataset: items with `pixel_values` alone; as many of them as labelled ones are in each step.
        kwargs: of `Trainer`.

    Raises:
        SettingsError: teachers that do not fit the model, or images without labels and no teachers.
    """

    train_dataset: Any

    def __init__(
        self,
        *args: Any,
        teachers: Teachers | Sequence[nn.Module] | None = None,
        unlabelled_dataset: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        model = self._plain_wrapper()
        self.teachers: Teachers | None = None
        self._task = self._task_loss(getattr(getattr(model, "network", model), "config", None))
        self.compute_loss_func = self._task
        if teachers is not None or unlabelled_dataset is not None:
            self._learn_from(teachers, unlabelled_dataset)

    def _task_loss(self, config: Any) -> Any:
        """A loss that adds up over micro-batches and processes, unless the user brought another."""
        given, smoothing = self.compute_loss_func or TaskLoss(), self.args.label_smoothing_factor
        if isinstance(given, TaskLoss):
            return dataclasses.replace(given, config=config, label_smoothing=smoothing or given.label_smoothing)
        if smoothing:
            raise SettingsError(
                f"label_smoothing_factor={smoothing} has no effect on a compute_loss_func: smooth in it, and set the "
                "factor to 0."
            )
        return given

    def _learn_from(self, teachers: Teachers | Sequence[nn.Module] | None, unlabelled: Any) -> None:
        if not teachers:
            raise SettingsError("unlabelled_dataset has no effect without teachers, which say what its images are.")
        model = self._plain_wrapper()
        config = getattr(model, "config", None)
        if getattr(config, "problem_type", None) == "regression" or getattr(config, "num_labels", 2) == 1:
            raise SettingsError("Teachers give probabilities of classes, which a regression has not: leave them out.")
        made = teachers if isinstance(teachers, Teachers) else Teachers(teachers)
        self.teachers = made.fit_to(model).to(self.args.device)
        weight = getattr(self.args, "distillation_weight", DISTILLATION_WEIGHT)
        self._temperature = getattr(self.args, "distillation_temperature", DISTILLATION_TEMPERATURE)
        self.compute_loss_func = DistillationLoss(self._task, weight, self._temperature)
        if unlabelled is not None:
            self.train_dataset = WithUnlabelled(self.train_dataset, unlabelled)

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        """As `Trainer`; in training beside what the teachers say."""
        if self.teachers is not None and model.training:
            inputs = self._lesson(self.teachers, inputs)
        return super().compute_loss(model, inputs, return_outputs, **kwargs)

    def _lesson(self, teachers: Teachers, inputs: Any) -> dict[str, Any]:
        """A batch with its images that have no label behind the others, and what the teachers say of all."""
        rest = {name: value for name, value in inputs.items() if name not in (UNLABELLED, "labels")}
        if UNLABELLED in inputs:
            rest["pixel_values"] = torch.cat([rest["pixel_values"], inputs[UNLABELLED]])
        lesson = Lesson(inputs["labels"], torch.empty(0))
        with self.accelerator.autocast():
            found = teachers(rest["pixel_values"], self._temperature, lesson.multi_label)
        return {**rest, "labels": lesson._replace(probabilities=found)}

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if UNLABELLED not in self._signature_columns:
            self._signature_columns.append(UNLABELLED)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """As `Trainer`; images with which Accelerate fills up the last batch of several processes do not count."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches and isinstance(self._task, TaskLoss) and self._filled_up():
            labels = batches[-1]["labels"].clone()
            labels[self._own_images(len(labels)) :] = IGNORED
            batches[-1] = {**batches[-1], "labels": labels}
            items = self._get_num_items_in_batch(batches, device)
        return batches, items

    def _filled_up(self) -> bool:
        """Whether the batches that the processes hold now are the last ones of an epoch, with images repeated."""
        state = self.accelerator.gradient_state
        return self.args.world_size > 1 and state.end_of_dataloader and state.remainder > 0

    def _own_images(self, size: int) -> int:
        """How many images of such a batch are no repetitions; they come first, those of the first process before."""
        return max(0, self.accelerator.gradient_state.remainder - self.args.process_index * size)

    def lessons(self) -> dict[str, Any]:
        """What the card says of teachers."""
        if self.teachers is None:
            return {}
        loss, train = self.compute_loss_func, self.train_dataset
        images = len(train.unlabelled) if isinstance(train, WithUnlabelled) else 0
        taught = {"teachers": len(self.teachers.networks), "unlabelled_images": images}
        return {**taught, "distillation_weight": loss.weight, "distillation_temperature": loss.temperature}
