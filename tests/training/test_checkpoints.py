"""Runs that are killed end as those that are not."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from tiny import network

from medmerge_hf import MedMergeModel, MedMergeTrainer, MedMergeTrainingArguments
from medmerge_hf.errors import CheckpointError, StateError
from medmerge_hf.training.checkpoints import checkpoint_problems, last_checkpoint


CONFIG = """
sources: [{folder}/0, {folder}/1]
data: {data}
image_size: 32
resamples: 10
patience: 2
merge: {{num_train_epochs: 3, kernel_learning_rate: 0.05, learning_rate: 0.01, {shared}}}
finetune: {{num_train_epochs: 3, learning_rate: 0.001, {shared}}}
"""
SHARED = "use_cpu: true, disable_tqdm: true, per_device_train_batch_size: 8, save_total_limit: 1"


@pytest.fixture
def config(tmp_path, vessels):
    for seed in range(2):
        timm.models.save_for_hf(network(seed), tmp_path / str(seed), safe_serialization=True)
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG.format(folder=tmp_path, data=vessels, shared=SHARED))
    return file


@pytest.mark.parametrize("count", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_a_killed_run_ends_as_one_that_was_not(config, tmp_path, count):
    script = Path(__file__).parents[1] / "kill_points.py"
    command = [sys.executable, str(script), str(config), str(tmp_path), str(count)]
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
