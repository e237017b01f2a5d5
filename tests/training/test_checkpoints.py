"""Runs that are killed end as those that are not."""

import copy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from tiny import network
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification, ViTImageProcessor

from medmerge_hf import MedMergeModel, MedMergeTrainer, MedMergeTrainingArguments
from medmerge_hf.errors import CheckpointError, StateError
from medmerge_hf.training.checkpoints import (
    begin_checkpoint,
    checkpoint_problems,
    discard_half_written,
    last_checkpoint,
)


CONFIG = """
sources: [{folder}/0, {folder}/1]
data: {data}
image_size: 32
resamples: 10
patience: 2
merge: {{num_train_epochs: {epochs}, kernel_learning_rate: 0.05, learning_rate: 0.01, {shared}}}
finetune: {{num_train_epochs: {epochs}, learning_rate: 0.001, {shared}}}
"""
SHARED = "use_cpu: true, disable_tqdm: true, per_device_train_batch_size: 8, save_total_limit: 1"


@pytest.mark.parametrize(
    ("count", "epochs", "also"), [(2, 2, []), pytest.param(50, 3, ["--clock"], marks=pytest.mark.slow)]
)
def test_a_killed_run_ends_as_one_that_was_not(count, epochs, also, vessels, tmp_path):
    for seed in range(2):
        timm.models.save_for_hf(network(seed), tmp_path / str(seed), safe_serialization=True)
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(folder=tmp_path, data=vessels, shared=SHARED, epochs=epochs))
    script = Path(__file__).parents[1] / "kill_points.py"
    command = [sys.executable, str(script), str(config), str(tmp_path), str(count), *also]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == f"{count} runs killed and resumed: {count} equal to the run that was not killed\n"


def trained(folder, **kwargs):
    torch.manual_seed(0)
    model = MedMergeModel.from_sources([network(0), network(1)], num_labels=3, image_size=32)
    data = [{"pixel_values": torch.rand(3, 32, 32), "labels": i % 3} for i in range(8)]
    options = {"max_steps": 3, "save_steps": 1, "use_cpu": True, "disable_tqdm": True, **kwargs}
    return MedMergeTrainer(model=model, args=MedMergeTrainingArguments(str(folder), **options), train_dataset=data)


def cut_off(file):
    file.write_bytes(file.read_bytes()[:-20])


FILES = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [Path.unlink, cut_off])
def test_a_half_written_checkpoint_is_recognised_and_the_one_before_taken(checkpoints, tmp_path, name, damage):
    shutil.copytree(checkpoints, tmp_path / "run")
    damage(tmp_path / "run" / "checkpoint-3" / name)
    [problem] = checkpoint_problems(tmp_path / "run" / "checkpoint-3")
    assert name in problem
    assert last_checkpoint(tmp_path / "run") == tmp_path / "run" / "checkpoint-2"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    trained(folder).train()
    return folder


def test_resuming_goes_on_from_the_last_whole_checkpoint(checkpoints, tmp_path):
    shutil.copytree(checkpoints, tmp_path / "run")
    expected = load_file(tmp_path / "run" / "checkpoint-3" / "model.safetensors")["merge.source_bias"]
    (tmp_path / "run" / "checkpoint-3" / "trainer_state.json").unlink()
    trainer = trained(tmp_path / "run")
    trainer.train(resume_from_checkpoint=True)
    assert torch.equal(trainer.model.merge.source_bias, expected)
    assert not checkpoint_problems(tmp_path / "run" / "checkpoint-3")


def test_only_the_trainers_own_checkpoints_are_in_the_form_to_train_on(checkpoints, tmp_path):
    assert sorted(file.name for file in (checkpoints / "checkpoint-3").iterdir()) == [
        *("config.json", "model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json"),
    ]
    trainer = trained(tmp_path)
    for name in ("checkpoint-best", "checkpoint-5", "elsewhere/checkpoint-5"):
        trainer.save_model(str(tmp_path / name))
        assert not MedMergeModel.from_pretrained(tmp_path / name).merging
        assert (tmp_path / name / "README.md").is_file()


def files_of(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_resuming_removes_what_this_run_left_half_written_and_nothing_else(checkpoints, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(checkpoints, run)
    (run / "checkpoint-2" / "optimizer.pt").unlink()  # of save_only_model
    (run / "checkpoint-3" / "trainer_state.json").unlink()  # not of this trainer: it bears no mark
    begin_checkpoint(run / "checkpoint-4")
    shutil.copytree(checkpoints / "checkpoint-3", run / "checkpoint-5")
    begin_checkpoint(run / "checkpoint-5")
    (run / "checkpoint-9").mkdir()
    (run / "checkpoint-9" / "notes.txt").write_text("mine")
    kept = {step: files_of(run / f"checkpoint-{step}") for step in (1, 2, 3, 9)}
    discard_half_written(run / "checkpoint-1")
    assert {folder.name for folder in run.iterdir()} == {f"checkpoint-{step}" for step in kept}
    assert {step: files_of(run / f"checkpoint-{step}") for step in kept} == kept


def test_a_run_that_is_resumed_from_elsewhere_touches_no_checkpoint(checkpoints, tmp_path):
    begin_checkpoint(tmp_path / "checkpoint-7")
    trained(tmp_path, max_steps=2, save_strategy="no").train(resume_from_checkpoint=str(checkpoints / "checkpoint-1"))
    assert [folder.name for folder in tmp_path.iterdir()] == ["checkpoint-7"]


def test_a_checkpoint_that_is_written_anew_is_not_whole_before_its_end(checkpoints, tmp_path):
    shutil.copytree(checkpoints / "checkpoint-3", tmp_path / "checkpoint-3")
    begin_checkpoint(tmp_path / "checkpoint-3")
    assert checkpoint_problems(tmp_path / "checkpoint-3") == ["trainer_state.json is missing"]


def resnet(folder, seed):
    timm.models.save_for_hf(network(seed), folder / str(seed), safe_serialization=True)
    return str(folder / str(seed))


def vit(folder, seed):
    torch.manual_seed(seed)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ViTForImageClassification(ViTConfig(**size, image_size=32, patch_size=8)).save_pretrained(folder / str(seed))
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / str(seed))
    return str(folder / str(seed))


@pytest.fixture(params=["timm", "transformers"])
def collapsed(request, tmp_path):
    sources = [{"timm": resnet, "transformers": vit}[request.param](tmp_path, seed) for seed in range(2)]
    model = MedMergeModel.from_sources(sources, num_labels=3, image_size=32, init=0.3)
    return model.collapse([torch.rand(4, 3, 32, 32)])


def tuned(kind, model, folder, **kwargs):
    """Fine-tune for three steps, the first of which is taken for the best."""
    torch.manual_seed(0)
    data = [{"pixel_values": torch.rand(3, 32, 32), "labels": i % 3} for i in range(8)]
    falls = iter(range(9))
    steps = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "falls", "greater_is_better": False}
    quiet = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "learning_rate": 1e-2}
    arguments = TrainingArguments(str(folder), **{**steps, **best, **quiet, **kwargs})
    trainer = kind(
        model, arguments, train_dataset=data, eval_dataset=data, compute_metrics=lambda _: {"falls": next(falls)}
    )
    return trainer, torch.stack([row["pixel_values"] for row in data])


def logits(model, images):
    with torch.no_grad():
        return model.eval()(images).logits


@pytest.mark.parametrize("kind", [MedMergeTrainer, Trainer])
def test_the_best_checkpoint_of_fine_tuning_comes_back_whole(collapsed, tmp_path, kind):
    trainer, images = tuned(kind, collapsed, tmp_path / "run")
    trainer.train()
    best, last = (MedMergeModel.from_pretrained(tmp_path / "run" / f"checkpoint-{step}") for step in (1, 3))
    assert torch.allclose(logits(collapsed, images), logits(best, images), atol=1e-6)
    assert not torch.allclose(logits(collapsed, images), logits(last, images), atol=1e-4)


def test_a_checkpoint_of_fine_tuning_is_one_write_and_all_that_the_model_is(collapsed, tmp_path):
    trainer, images = tuned(MedMergeTrainer, collapsed, tmp_path / "run", load_best_model_at_end=False)
    trainer.train()
    folder = tmp_path / "run" / "checkpoint-3"
    assert not {"README.md", "medmerge/kernel_weights.png", "medmerge/config.json"} & files_of(folder).keys()
    again, merge = (MedMergeModel.from_pretrained(folder, merging=merging) for merging in (False, True))
    assert torch.allclose(logits(again, images), logits(collapsed, images), atol=1e-6)
    assert again.kernel_weights().equals(collapsed.kernel_weights())
    assert (again.merging, merge.merging) == (False, True)
    assert MedMergeModel.from_pretrained(folder, dtype="bfloat16").network.dtype == torch.bfloat16


def test_fine_tuning_resumes_where_it_was(collapsed, tmp_path):
    again = copy.deepcopy(collapsed)
    trainer, _ = tuned(MedMergeTrainer, collapsed, tmp_path / "run", load_best_model_at_end=False)
    trainer.train()
    shutil.rmtree(tmp_path / "run" / "checkpoint-3")
    second, images = tuned(MedMergeTrainer, again, tmp_path / "run", load_best_model_at_end=False)
    second.train(resume_from_checkpoint=True)
    assert torch.allclose(logits(again, images), logits(collapsed, images), atol=1e-6)


def test_nothing_to_resume_from_is_said(checkpoints, tmp_path):
    with pytest.raises(CheckpointError, match="there is none"):
        trained(tmp_path).train(resume_from_checkpoint=True)
    shutil.copytree(checkpoints / "checkpoint-1", tmp_path / "checkpoint-1")
    (tmp_path / "checkpoint-1" / "optimizer.pt").unlink()
    with pytest.raises(CheckpointError, match=r"optimizer\.pt is missing"):
        trained(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_a_checkpoint_of_the_other_stage_is_refused(checkpoints):
    trainer = trained(checkpoints)
    trainer.model.collapse()
    with pytest.raises(StateError, match="checkpoint of the merge stage"):
        trainer.train(resume_from_checkpoint=str(checkpoints / "checkpoint-3"))
