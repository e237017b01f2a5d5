import dataclasses
import random

import numpy as np
import pytest
import torch
from transformers import TrainingArguments

from medmerge_hf.runs.checks import Problems
from medmerge_hf.runs.stage_arguments import ALLOWED, DEFAULTS, NO_USE, make_arguments, stage_rules


def made(tmp_path, stage="merge", **given):
    problems = Problems()
    args = make_arguments(stage, given, {"output_dir": str(tmp_path), "report_to": ["none"]}, problems)
    assert (args is None) == bool(problems)
    return args, problems


def test_defaults_and_shared_values_hold_unless_the_user_says_otherwise(tmp_path):
    args, _ = made(tmp_path, learning_rate="1e-3", save_total_limit=3, lr_scheduler_kwargs='{"num_cycles": 1}')
    assert (args.learning_rate, args.save_total_limit, args.num_train_epochs) == (1e-3, 3, 3.0)
    assert args.per_device_train_batch_size == DEFAULTS["per_device_train_batch_size"]
    assert args.greater_is_better is True
    assert args.lr_scheduler_kwargs == {"num_cycles": 1}
    assert args.output_dir == str(tmp_path)


def test_the_smallest_loss_is_the_best():
    assert made("x", metric_for_best_model="loss")[0].greater_is_better is False


def test_label_smoothing_is_taken(tmp_path):
    args, problems = made(tmp_path, label_smoothing_factor=0.5)
    assert (args.label_smoothing_factor, list(problems)) == (0.5, [])


def test_no_is_a_word_that_yaml_reads_as_false(tmp_path):
    args, _ = made(tmp_path, eval_strategy=False, save_strategy=False, load_best_model_at_end=False)
    assert (args.eval_strategy.value, args.save_strategy.value) == ("no", "no")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("per_device_train_batch_size", 0),
        ("learning_rate", float("nan")),
        ("learning_rate", 1e300),
        ("kernel_learning_rate", -1),
        ("kernel_l2", -1),
        ("num_train_epochs", -3),
        ("num_train_epochs", 0),
        ("max_steps", 0),
        ("warmup_steps", -1),
        ("adam_beta1", 1),
        ("label_smoothing_factor", 1.5),
        ("seed", -1),
        ("eval_steps", 0),
        ("dataloader_num_workers", -1),
        ("metric_for_best_model", "macrof1"),
        ("optim", "adamm"),
        ("lr_scheduler_type", "cosin"),
        ("eval_strategy", "epochs"),
        ("report_to", "tensorbord"),
        ("report_to", "wandb"),
        ("report_to", ["none", "tensorboard"]),
        ("log_level", "loud"),
        ("bf16", "maybe"),
        ("optim_args", "a"),
        ("optim", "adamw_bnb_8bit"),
        ("lr_scheduler_type", "cosine_with_min_lr"),
        ("lr_scheduler_kwargs", {"cycles": 2}),
        ("save_strategy", "no"),
        ("dataloader_persistent_workers", True),
        ("dataloader_multiprocessing_context", "spawn"),
        ("train_sampling_strategy", "group_by_length"),
        ("accelerator_config", {"split_batch": True}),
        ("ddp_timeout", 10**30),
        ("fsdp", True),
        ("debug", "all"),
        ("output_dir", "elsewhere"),
        ("neftune_noise_alpha", 5),
    ],
)
def test_what_a_stage_cannot_be_run_with_is_named(name, value, tmp_path):
    _, problems = made(tmp_path, **{name: value})
    assert len(problems) == 1
    assert f"merge.{name}" in problems[0]


def test_contradictions_are_named(tmp_path):
    _, problems = made(tmp_path, metric_for_best_model="loss", greater_is_better=True)
    assert problems == ["merge.greater_is_better=True: contradicts metric_for_best_model=loss; leave it out."]
    _, problems = made(tmp_path, eval_strategy="no", save_strategy="best", load_best_model_at_end=False)
    assert "merge.eval_strategy=no: the best model is chosen by evaluations" in problems[0]
    _, problems = made(tmp_path, push_to_hub=True, hub_strategy="checkpoint", hub_token="hf_secret")
    assert "merge.hub_strategy=checkpoint: uploads pickles" in problems[0]
    _, problems = made(tmp_path, optim_args="a", hub_token="hf_secret")
    assert "hf_secret" not in problems[0]


def test_checking_leaves_no_trace(tmp_path):
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    made(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]


def test_stages_may_differ_in_precision(tmp_path):
    assert made(tmp_path, bf16=True, use_cpu=True)[0].bf16
    assert not made(tmp_path, "finetune", use_cpu=True)[0].bf16


def test_every_argument_has_a_rule_or_a_reason_why_not():
    names = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}
    assert stage_rules().keys() | NO_USE.keys() >= names
    assert not stage_rules().keys() & NO_USE.keys()
    numbers = {name for name, rule in stage_rules().items() if {int, float} & set(rule.members)}
    assert numbers <= ALLOWED.keys()
