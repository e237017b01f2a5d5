"""`Trainer` for both stages: own learning rate of the kernel weights, checkpoints that hold them, collapse."""

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .modeling_medmerge import MedMergeModel


logger = logging.getLogger(__name__)

KERNEL_LEARNING_RATE = 1e-2


@dataclasses.dataclass
class MedMergeTrainingArguments(TrainingArguments):
    """`TrainingArguments` plus what the merge stage adds.

    Args:
        kernel_learning_rate: of the kernel weights; `learning_rate` is the head's. They never decay.
    """

    kernel_learning_rate: float = dataclasses.field(
        default=KERNEL_LEARNING_RATE, metadata={"help": "Learning rate of the kernel weights (merge stage)."}
    )


class MedMergeTrainer(Trainer):
    """`transformers.Trainer` that knows a merge.

    It takes what `Trainer` takes. Beyond it: the kernel weights have `args.kernel_learning_rate` (1e-2 with plain
    `TrainingArguments`) and no weight decay; `checkpoint-*` folders hold the small trainable form, so that the best
    checkpoint can be loaded again; `save_model` writes the collapsed export, never a pickle; mean and standard
    deviation of the kernel weights stand beside every evaluation.

    Example:
        >>> import timm
        >>> from medmerge_hf import MedMergeModel
        >>> model = MedMergeModel.from_sources([timm.create_model("test_resnet") for _ in range(2)], num_labels=2)
        >>> data = [{"pixel_values": torch.rand(3, 32, 32), "labels": i % 2} for i in range(8)]
        >>> args = MedMergeTrainingArguments(max_steps=1, use_cpu=True, disable_tqdm=True, save_strategy="no")
        >>> _ = MedMergeTrainer(model=model, args=args, train_dataset=data).train()  # doctest: +ELLIPSIS
        {'train_runtime': ...}
    """

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """As `Trainer`, with a parameter group of their own for the kernel weights."""
        made = self.optimizer is None
        optimizer = super().create_optimizer() if model is None else super().create_optimizer(model)
        merge = getattr(self._plain_wrapper(), "merge", None)
        if made and merge is not None:
            parameter = merge.source_bias
            for group in optimizer.param_groups:
                group["params"] = [p for p in group["params"] if p is not parameter]
            rate = getattr(self.args, "kernel_learning_rate", KERNEL_LEARNING_RATE)
            optimizer.add_param_group({"params": [parameter], "lr": rate, "weight_decay": 0.0})
        return optimizer

    def _plain_wrapper(self) -> Any:
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As `Trainer`, the kernel weights' figures beside those of an evaluation."""
        model = self._plain_wrapper()
        if getattr(model, "merge", None) is not None and any(key.startswith("eval_") for key in logs):
            logs = {**logs, **model.kernel_weight_statistics()}
        super().log(logs, *args, **kwargs)

    @contextmanager
    def _every_image(self) -> Iterator[None]:
        """`dataloader_drop_last` is meant for training; Trainer would leave images out of an evaluation too."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = drop_last

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        """As `Trainer`, never without the last batch."""
        with self._every_image():
            return super().get_eval_dataloader(*args, **kwargs)

    def get_test_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        """As `Trainer`, never without the last batch."""
        with self._every_image():
            return super().get_test_dataloader(*args, **kwargs)

    def collapse(self) -> MedMergeModel:
        """End the merge stage: one plain network, BatchNorm statistics estimated on the training images.

        A new trainer (or this one again) then fine-tunes it.

        Returns:
            The model, collapsed.
        """
        model: MedMergeModel = self._plain_wrapper()
        model.collapse(self.get_train_dataloader())
        self.optimizer = self.lr_scheduler = None
        return model

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        model = self._plain_wrapper()
        if not isinstance(model, MedMergeModel):
            super()._save(output_dir, state_dict)
            return
        if not self.args.should_save:
            return
        output_dir = output_dir if output_dir is not None else self.args.output_dir
        trainable = model.merging and Path(output_dir).name.startswith(PREFIX_CHECKPOINT_DIR)
        model.save_pretrained(output_dir, state_dict=state_dict, collapse=not trainable)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(output_dir)
