"""The `TrainingArguments` of a stage: what they are by default, what they may be, and that a `Trainer` takes them."""

import copy
import dataclasses
import functools
import os
import tempfile
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate.state import AcceleratorState
from huggingface_hub import get_token
from torch import nn
from transformers import Trainer
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from ..evaluation.metrics import training_metrics
from ..training.training_args import MedMergeTrainingArguments
from .checks import Problems, Rule, check_values, show
from .options import SEED, Range


# Worker processes keep a GPU busy; on a CPU they would take the cores that the network computes on.
WORKERS = min(8, (os.cpu_count() or 1) // torch.cuda.device_count()) if torch.cuda.is_available() else 0

# Of both stages, unless the YAML or the command line says otherwise.
DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "lr_scheduler_type": "cosine",
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "load_best_model_at_end": True,
    "metric_for_best_model": "macro_f1",
    "logging_steps": 10,
    "remove_unused_columns": False,
    "dataloader_pin_memory": torch.cuda.is_available(),
    "dataloader_num_workers": WORKERS,
}

COUNT, RATE, SHARE = Range(1, 10**6), Range(0, 100), Range(0, 1, open_high=True)

INTERVAL = Range(0, 10**9, open_low=True)

ALLOWED: dict[str, Any] = {
    **dict.fromkeys(
        ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"), COUNT
    ),
    **dict.fromkeys(("eval_accumulation_steps", "save_total_limit", "torch_empty_cache_steps"), COUNT),
    **dict.fromkeys(("dataloader_prefetch_factor", "ddp_bucket_cap_mb", "ddp_timeout"), COUNT),
    **dict.fromkeys(("eval_steps", "save_steps", "logging_steps"), INTERVAL),
    **dict.fromkeys(("learning_rate", "kernel_learning_rate", "weight_decay", "adam_epsilon"), RATE),
    **dict.fromkeys(("warmup_steps", "kernel_l2", "max_grad_norm", "eval_delay"), Range(0, 10**9)),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "label_smoothing_factor"), SHARE),
    "dataloader_num_workers": Range(0, 1024),
    "distillation_weight": Range(0, 1),
    "distillation_temperature": Range(0, 10**3, open_low=True),
    "num_train_epochs": Range(0, 10**6, open_low=True),
    "max_steps": Range(1, 10**9, also=-1),
    "seed": SEED,
    "data_seed": SEED,
    "metric_for_best_model": [*(metric.name for metric in training_metrics()), "loss"],
    "report_to": ["none", "all", *INTEGRATION_TO_CALLBACK],
}

# Arguments of every `Trainer` that a stage of a run has no use for, and why.
NO_USE = {
    "output_dir": "both stages lie in the run's own output_dir",
    "resume_from_checkpoint": "a run that is started again goes on by itself",
    **dict.fromkeys(("do_train", "do_eval", "do_predict"), "every stage is trained and evaluated"),
    **dict.fromkeys(("local_rank", "parallelism_config"), "accelerate launch says it"),
    **dict.fromkeys(("batch_eval_metrics", "prediction_loss_only"), "the metrics are of all images"),
    **dict.fromkeys(("eval_do_concat_batches", "include_for_metrics"), "the metrics are of all images"),
    **dict.fromkeys(("label_names", "length_column_name", "use_cache"), "the images have no such thing"),
    **dict.fromkeys(("include_num_input_tokens_seen", "neftune_noise_alpha"), "it is for language models"),
    **dict.fromkeys(("use_liger_kernel", "liger_kernel_config"), "it is for language models"),
    "optim_target_modules": "it is for language models",
}


@functools.cache
def stage_rules() -> dict[str, Rule]:
    """Name -> what it takes, of all arguments that a stage has a use for."""
    hints = typing.get_type_hints(MedMergeTrainingArguments)
    return {
        field.name: Rule(hints[field.name], ALLOWED.get(field.name) or list(field.metadata.get("choices") or ()))
        for field in dataclasses.fields(MedMergeTrainingArguments)
        if field.init and field.name not in NO_USE
    }


def make_arguments(
    stage: str, given: Mapping[str, Any], shared: Mapping[str, Any], problems: Problems
) -> MedMergeTrainingArguments | None:
    """The arguments of a stage.

    Args:
        stage: `merge` or `finetune`.
        given: argument -> value as the user has it.
        shared: values that hold unless the user says otherwise.
        problems: receives what is wrong.

    Returns:
        `None` where something is wrong.
    """
    before = len(problems)
    for name in given:
        if name in NO_USE and given[name] is not None:
            problems.append(f"{stage}.{name}: a stage has no use for it: {NO_USE[name]}.")
    values = check_values(given, stage_rules(), problems, f"{stage}.")
    check_integrations(f"{stage}.report_to", values.get("report_to", "none"), problems)
    if len(problems) > before:
        return None
    try:
        whole = {**DEFAULTS, **shared, **values}
        whole.setdefault("dataloader_persistent_workers", whole["dataloader_num_workers"] > 0)
        args = MedMergeTrainingArguments(**whole)
        problems += [f"{stage}.{text}" for text in _contradictions(stage, args)]
        if len(problems) == before:
            _try_trainer(args)
    except Exception as error:  # each library behind it has errors of its own
        shown = [f"{stage}.{name}={show(name, value)}" for name, value in values.items()]
        problems.append(f"{', '.join(shown)}: {' '.join(str(error).split()) or type(error).__name__}")
    return args if len(problems) == before else None


def check_integrations(name: str, report_to: str | Sequence[str], problems: Problems) -> None:
    """Note what a run cannot log to.

    Args:
        name: of the option.
        report_to: its value, of the words that it takes.
        problems: receives what is not installed.
    """
    words = [report_to] if isinstance(report_to, str) else report_to
    if len(words) > 1 and {"none", "all"} & set(words):
        problems.value(name, report_to, "none, all, or names without these two")
    for word in words:
        try:
            INTEGRATION_TO_CALLBACK.get(word, str)()
        except Exception as error:  # each has errors of its own
            problems.value(name, report_to, f"what is installed here ({' '.join(str(error).split())})")


def _contradictions(stage: str, args: MedMergeTrainingArguments) -> Iterator[str]:
    """What no library behind it would say before the images are read."""
    evaluates, saves = args.eval_strategy.value != "no", args.save_strategy.value
    if not evaluates and (args.load_best_model_at_end or saves == "best"):
        yield "eval_strategy=no: the best model is chosen by evaluations; or set load_best_model_at_end to false."
    metric = args.metric_for_best_model
    if metric is not None and args.greater_is_better == metric.endswith("loss"):
        yield f"greater_is_better={args.greater_is_better}: contradicts metric_for_best_model={metric}; leave it out."
    if stage == "merge" and (args.fsdp or args.deepspeed):
        yield "fsdp, merge.deepspeed: the merge stage cannot be sharded; only finetune can."
    if args.push_to_hub and args.hub_strategy.value in ("checkpoint", "all_checkpoints"):
        yield f"hub_strategy={args.hub_strategy.value}: uploads pickles; expected end or every_save."
    if args.sync_batch_norm and args.world_size > 1 and args.device.type != "cuda":
        yield f"sync_batch_norm=True: works on GPUs, not on {args.device.type}."
    if args.push_to_hub and not (args.hub_token or get_token()):
        yield "push_to_hub=True: nobody is logged in: run `hf auth login`, or set HF_TOKEN."
    if args.torch_compile and args.torch_compile_backend not in (known := _compilers()):
        yield f"torch_compile_backend={args.torch_compile_backend}: expected one of {', '.join(known)}."


def _compilers() -> list[str]:
    import torch._dynamo

    return torch._dynamo.list_backends(exclude_tags=None)


def _try_trainer(args: MedMergeTrainingArguments) -> None:
    """Make a `Trainer` of a few numbers, with optimizer, schedule and data loaders, and see that it takes them all."""
    if args.deepspeed:
        return
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        own = copy.copy(args)
        own.output_dir, own.report_to, own.push_to_hub, own.full_determinism = folder, [], False, False
        own.label_smoothing_factor = 0.0  # with it Trainer asks the model for a config, which these numbers have not
        fresh_accelerator()
        trainer = Trainer(model=nn.Linear(2, 2), args=own, train_dataset=range(9), eval_dataset=range(9))
        trainer.create_optimizer_and_scheduler(9)
        for loader in (trainer.get_train_dataloader, trainer.get_eval_dataloader):
            loader()


def fresh_accelerator() -> None:
    """Let the next stage have another precision than the one before: Accelerate keeps one for the whole process."""
    AcceleratorState._reset_state()
