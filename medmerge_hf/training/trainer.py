"""`Trainer` for both stages: own learning rate of the kernel weights, checkpoints that hold them, collapse."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import set_seed
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..errors import CheckpointError, SettingsError
from ..evaluation.bootstrap import bootstrap_intervals
from ..evaluation.counted import counts_for_pictures
from ..export.card.record import label_figures, record_result, record_training
from ..merging.kernel_table import block_statistics
from ..modeling_medmerge import MedMergeModel
from ..networks.build import MULTI_LABEL
from ..networks.preprocessing import check_preprocessing
from ..networks.saved_network import check_names
from .checkpoints import (
    begin_checkpoint,
    checkpoint_problems,
    discard_half_written,
    end_checkpoint,
    is_begun,
    last_checkpoint,
    restore_statistics,
    stopped_early,
)
from .distillation import WithUnlabelled
from .kept_memory import kept_memory
from .last_batch import drops_last_batch
from .taught_trainer import TaughtTrainer
from .training_args import KERNEL_LEARNING_RATE


class MedMergeTrainer(TaughtTrainer):
    """`transformers.Trainer` that knows a merge.

    It takes what `Trainer` takes. Beyond it: the kernel weights have `args.kernel_learning_rate` (1e-2 with plain
    `TrainingArguments`) and no weight decay; its `checkpoint-*` folders hold the form to train on, so that the best
    checkpoint can be loaded again; `save_model` writes the collapsed export, never a pickle; mean and standard
    deviation of the kernel weights stand beside every evaluation.

    With `teachers=[...]` the model learns what they say of every training image beside its label, and with
    `unlabelled_dataset=` of as many images without one in each step: `args.distillation_weight` is the teachers' share
    of the loss, `args.distillation_temperature` divides the logits.

    Plain `Trainer` on a plain transformers network restores nothing of what has another name on disk than in memory
    (the encoder of a ViT), in `load_best_model_at_end` and on resuming: load its checkpoints with `from_pretrained`.
    A [`MedMergeModel`] has all its tensors back under either trainer; this one refuses for other models.

    Example:
        >>> import timm
        >>> from medmerge_hf import MedMergeModel, MedMergeTrainingArguments
        >>> model = MedMergeModel.from_sources([timm.create_model("test_resnet") for _ in range(2)], num_labels=2)
        >>> data = [{"pixel_values": torch.rand(3, 32, 32), "labels": i % 2} for i in range(8)]
        >>> args = MedMergeTrainingArguments(max_steps=1, use_cpu=True, disable_tqdm=True, save_strategy="no")
        >>> _ = MedMergeTrainer(model=model, args=args, train_dataset=data).train()  # doctest: +ELLIPSIS
        {'train_runtime': ...}
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if getattr(self._plain_wrapper(), "merge", None) is None:
            return
        if self.is_fsdp_enabled or self.is_deepspeed_enabled or self.args.fsdp or self.args.deepspeed:
            raise SettingsError(
                "The merge stage cannot be sharded by FSDP or DeepSpeed: weights of (out, 1, 1, 1) split into empty "
                "shards, and the collapse needs every tensor whole. Merge under plain DDP, then fine-tune sharded."
            )

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

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        """As `Trainer`; while the merge stage trains with the L2 penalty that the arguments ask for."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        if self.args.n_gpu > 1:  # DataParallel gathers all outputs first; Trainer scales as if each had its own loss
            loss = loss.mean() / self.args.n_gpu
        merge = getattr(self._plain_wrapper(), "merge", None)
        if model.training and merge is not None and (strength := getattr(self.args, "kernel_l2", 0.0)):
            parts = getattr(self, "current_gradient_accumulation_steps", self.args.gradient_accumulation_steps)
            loss = loss + strength * merge.l2_penalty() / parts
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As `Trainer`, the kernel weights' figures beside those of an evaluation."""
        model = self._plain_wrapper()
        if getattr(model, "merge", None) is not None and any(key.startswith("eval_") for key in logs):
            logs = {**logs, **block_statistics(*model.kernel_layout())}
        super().log(logs, *args, **kwargs)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """As `Trainer`; the sources of a merge compute nothing with the images, only the network does."""
        model = self._plain_wrapper()
        if not isinstance(model, MedMergeModel):
            return super().floating_point_ops(inputs)
        return 6 * inputs[model.main_input_name].numel() * model.network.num_parameters(exclude_embeddings=True)

    _evaluated: Any = None

    @contextmanager
    def _every_image(self) -> Iterator[None]:
        """`dataloader_drop_last` is meant for training; Trainer would leave images out of an evaluation too."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = drop_last

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """As `Trainer`, never without the last batch, and with persistent workers too of the images asked for."""
        images = self.eval_dataset if eval_dataset is None else eval_dataset
        if not isinstance(images, str) and images is not self._evaluated:
            self._evaluated = images
            getattr(self, "_eval_dataloaders", {}).pop("eval", None)  # Trainer would go on with those of before
        with self._every_image():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        """As `Trainer`, never without the last batch."""
        with self._every_image():
            return super().get_test_dataloader(*args, **kwargs)

    def train(
        self, resume_from_checkpoint: str | os.PathLike[str] | bool | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """As `Trainer`; how it was trained is noted for the model card.

        Args:
            resume_from_checkpoint: `True` for the newest checkpoint in `args.output_dir` that was written to its end,
                or a folder. Half-written ones that a killed run left are removed.
            args: of `Trainer.train`.
            kwargs: of `Trainer.train`.

        Raises:
            CheckpointError: there is no whole checkpoint.
        """
        self._check_pixels()
        if getattr(self.args, "sync_batch_norm", False) and self.args.world_size > 1:
            self._sync_batch_norm()
        max_steps, drop_last = self.args.max_steps, self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drops_last_batch(
            *(self._plain_wrapper(), self.train_dataset, self._train_batch_size, self.args.world_size, drop_last),
            one_image=lambda: next(iter(self.get_train_dataloader()))["pixel_values"][:1],
        )
        if resume_from_checkpoint:
            resume_from_checkpoint = self._whole_checkpoint(resume_from_checkpoint)
            if (step := stopped_early(resume_from_checkpoint)) is not None:
                self.args.max_steps = step
        try:
            with kept_memory() if self.args.device.type == "cpu" else nullcontext():
                output = super().train(resume_from_checkpoint or None, *args, **kwargs)
        finally:
            self.args.max_steps, self.args.dataloader_drop_last = max_steps, drop_last
        model = self._plain_wrapper()
        if isinstance(model, MedMergeModel):
            record_training(model.config, model.stage, self.args, self.state, self.lessons())
        return output

    def _check_pixels(self) -> None:
        """Training, evaluation and the export see the same pixels, before the first step."""
        model = self._plain_wrapper()
        if isinstance(model, MedMergeModel):
            train = self.train_dataset
            learns = [train.labelled, train.unlabelled] if isinstance(train, WithUnlabelled) else [train]
            sets = [*learns, *(e.values() if isinstance(e := self.eval_dataset, dict) else [e])]
            check_preprocessing(model, *(getattr(images, "transform", None) for images in sets))

    def _sync_batch_norm(self) -> None:
        if self.args.device.type != "cuda":
            raise SettingsError(
                f"sync_batch_norm works on GPUs, not on {self.args.device.type}: torch has no kernel for it there."
            )
        model = self._plain_wrapper()
        model.network = convert_sync_batchnorm(model.network)
        if model.merging:
            model.merged_network.bind(model.network)

    def _whole_checkpoint(self, asked: str | bool | os.PathLike[str]) -> str:
        folder = Path(self.args.output_dir)
        found = last_checkpoint(folder) if asked is True else Path(asked)  # type: ignore[arg-type]
        problems = ["there is none"] if found is None else checkpoint_problems(found)
        if found is None or problems:
            raise CheckpointError(
                f"No run can be resumed from {found or folder}: {'; '.join(problems)}. The last whole checkpoint is "
                f"{last_checkpoint(folder)}; without resume_from_checkpoint the run starts anew."
            )
        with self.args.main_process_first(desc="discard half-written checkpoints"):
            if self.args.should_save and found.parent.absolute() == folder.absolute():
                discard_half_written(found)
        return str(found)

    def record_results(self, dataset: Any, split: str = "test", resamples: int = 1000) -> dict[str, dict[str, float]]:
        """Evaluate, with 95 % intervals (bootstrap over images), and note the figures for the model card.

        Args:
            dataset: as `evaluate` takes it.
            split: what the card calls these images.
            resamples: of the bootstrap.

        Returns:
            Figure of `compute_metrics` -> `value`, `low`, `high`.
        """
        if self.compute_metrics is None:
            raise SettingsError("record_results needs a trainer with compute_metrics=make_compute_metrics(...).")
        output = self.predict(dataset, metric_key_prefix=split)
        figures = bootstrap_intervals(self.compute_metrics, output.predictions, output.label_ids, resamples)
        config = self._plain_wrapper().config
        multi_label = config.problem_type == MULTI_LABEL
        labels = label_figures(output.predictions, output.label_ids, config.id2label) if multi_label else None
        counted = counts_for_pictures(output.predictions, output.label_ids, multi_label)
        record_result(config, split, len(output.label_ids), figures, resamples, labels, counted)
        return figures

    def collapse(self) -> MedMergeModel:
        """End the merge stage: one plain network, BatchNorm statistics estimated on the training images.

        A new trainer (or this one again) then fine-tunes it.

        Returns:
            The model, collapsed.
        """
        model: MedMergeModel = self._plain_wrapper()
        set_seed(self.args.seed)  # order and augmentation of these images must not depend on whether a run was resumed
        model.collapse(self._each_image_once())
        self.optimizer = self.lr_scheduler = None
        return model

    def _each_image_once(self) -> Iterator[dict[str, Any]]:
        """Batches of training images, the last one whole and without repetitions."""
        with self._every_image():
            loader = self.get_train_dataloader()
        for batch in loader:
            images = batch["pixel_values"]
            own = images[: self._own_images(len(images))] if self._filled_up() else images
            if len(own):
                yield {"pixel_values": own}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As `Trainer`: the export, wherever a user asks for it.

        Args:
            output_dir: `args.output_dir` by default.
            _internal_call: `Trainer`'s own, for its checkpoints.
        """
        if _internal_call and output_dir is not None and self.args.should_save:
            begin_checkpoint(output_dir)
        super().save_model(output_dir, _internal_call)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial))
            end_checkpoint(folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}", self._plain_wrapper())

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        model = self._plain_wrapper()
        if not isinstance(model, MedMergeModel):
            super()._save(output_dir, state_dict)
            return
        if not self.args.should_save:
            return
        output_dir = output_dir if output_dir is not None else self.args.output_dir
        model.save_pretrained(output_dir, state_dict=state_dict, collapse=not is_begun(output_dir))
        if self.processing_class is not None:
            self.processing_class.save_pretrained(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        restore_statistics(self._plain_wrapper(), resume_from_checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        restore_statistics(self._plain_wrapper(), self.state.best_model_checkpoint)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """`Trainer` goes on with tensors that stayed as they were; of a plain network too that is an error here."""
        check_names(load_result, self.model)
        super()._issue_warnings_after_load(load_result)
