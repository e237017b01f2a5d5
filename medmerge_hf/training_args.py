"""`TrainingArguments` with what the merge stage and its fine-tuning add."""

import dataclasses

from transformers import TrainingArguments

from .errors import SettingsError


KERNEL_LEARNING_RATE = 1e-2


@dataclasses.dataclass
class MedMergeTrainingArguments(TrainingArguments):
    """`TrainingArguments` plus what the merge stage adds.

    Args:
        kernel_learning_rate: of the kernel weights; `learning_rate` is the head's. They never decay.
        kernel_average: decay of an exponential moving average of the kernel weights, which then is what evaluation,
            checkpoints and the collapse see; 0 goes without.
        kernel_delay: share of the merge stage's steps in which the head learns alone.
        kernel_dropout: probability with which a kernel does without a source in a step of the merge stage.
        kernel_pull: strength of a pull of the kernel weights towards the anchor ([`KernelWeights.pull`]).
        kernel_pull_binary: pull them towards 0 or 1 instead, whichever is nearer.
        kernel_distill: strength with which the merged features are held to the sources' ([`distillation`]).
        layer_decay: of the learning rate from one layer to the one before it, in fine-tuning; 1 is one rate for all.
        l2_sp: strength of a pull towards the weights that fine-tuning begins with (L2-SP, arXiv 1802.01483).
        weight_average: decay of a moving average of all weights in fine-tuning, which then is what evaluation,
            checkpoints and the export see; 0 goes without.
        sync_batch_norm: BatchNorm statistics over all processes (GPUs only).
    """

    kernel_learning_rate: float = dataclasses.field(
        default=KERNEL_LEARNING_RATE, metadata={"help": "Learning rate of the kernel weights (merge stage)."}
    )
    kernel_average: float = dataclasses.field(
        default=0.0, metadata={"help": "Decay of a moving average of the kernel weights, e.g. 0.99; 0 goes without."}
    )
    kernel_delay: float = dataclasses.field(
        default=0.0, metadata={"help": "Share of the merge stage in which the head learns alone."}
    )
    kernel_dropout: float = dataclasses.field(
        default=0.0, metadata={"help": "Probability with which a kernel does without a source in a step."}
    )
    kernel_pull: float = dataclasses.field(
        default=0.0, metadata={"help": "Strength of a pull of the kernel weights towards the anchor."}
    )
    kernel_pull_binary: bool = dataclasses.field(
        default=False, metadata={"help": "Pull the kernel weights towards 0 or 1, whichever is nearer."}
    )
    kernel_distill: float = dataclasses.field(
        default=0.0, metadata={"help": "Strength of distillation from the sources' features (merge stage)."}
    )
    layer_decay: float = dataclasses.field(
        default=1.0, metadata={"help": "Of the learning rate, layer by layer towards the image (fine-tuning)."}
    )
    l2_sp: float = dataclasses.field(
        default=0.0, metadata={"help": "Strength of a pull towards the merged weights (fine-tuning)."}
    )
    weight_average: float = dataclasses.field(
        default=0.0, metadata={"help": "Decay of a moving average of all weights in fine-tuning, e.g. 0.99."}
    )
    sync_batch_norm: bool = dataclasses.field(
        default=False, metadata={"help": "BatchNorm statistics over all processes (GPUs only)."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("kernel_delay", "kernel_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingsError(f"{name}={getattr(self, name)} is a share: at least 0 and below 1.")
        for name in ("kernel_pull", "kernel_distill", "l2_sp"):
            if not getattr(self, name) >= 0:
                raise SettingsError(f"{name}={getattr(self, name)} is a strength: at least 0.")
        if not 0 < self.layer_decay <= 1:
            raise SettingsError(f"layer_decay={self.layer_decay} is a factor: above 0 and at most 1.")
        for name in ("kernel_average", "weight_average"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingsError(f"{name}={getattr(self, name)} is a decay: at least 0 and below 1.")
