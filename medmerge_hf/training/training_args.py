"""`TrainingArguments` with what the merge stage and its fine-tuning add."""

import dataclasses

from transformers import TrainingArguments

from ..errors import SettingsError


KERNEL_LEARNING_RATE = 1e-2

DISTILLATION_WEIGHT, DISTILLATION_TEMPERATURE = 0.9, 1.0


@dataclasses.dataclass
class MedMergeTrainingArguments(TrainingArguments):
    """`TrainingArguments` plus what the merge stage adds.

    Args:
        kernel_learning_rate: of the kernel weights; `learning_rate` is the head's. They never decay.
        kernel_l2: strength of an L2 penalty on the kernel weights, which draws the merge towards its anchor
            ([`KernelWeights.l2_penalty`]); 0 goes without.
        distillation_weight: share of the loss that is the divergence from the trainer's `teachers`, from 0 to 1; the
            rest is the labels'.
        distillation_temperature: by which the logits of teachers and student are divided first.
        sync_batch_norm: BatchNorm statistics over all processes (GPUs only).
    """

    kernel_learning_rate: float = dataclasses.field(
        default=KERNEL_LEARNING_RATE, metadata={"help": "Learning rate of the kernel weights (merge stage)."}
    )
    kernel_l2: float = dataclasses.field(
        default=0.0, metadata={"help": "Strength of an L2 penalty on the kernel weights (merge stage)."}
    )
    distillation_weight: float = dataclasses.field(
        default=DISTILLATION_WEIGHT, metadata={"help": "Share of the loss that teachers, where there are, decide."}
    )
    distillation_temperature: float = dataclasses.field(
        default=DISTILLATION_TEMPERATURE, metadata={"help": "Divides logits of teachers and student."}
    )
    sync_batch_norm: bool = dataclasses.field(
        default=False, metadata={"help": "BatchNorm statistics over all processes (GPUs only)."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.kernel_l2 >= 0:
            raise SettingsError(f"kernel_l2={self.kernel_l2} is a strength: at least 0.")
        if not 0 <= self.distillation_weight <= 1:
            raise SettingsError(f"distillation_weight={self.distillation_weight} is a share: from 0 to 1.")
        if not self.distillation_temperature > 0:
            raise SettingsError(f"distillation_temperature={self.distillation_temperature} must be above 0.")
