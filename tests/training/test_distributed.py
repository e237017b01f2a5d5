"""Two processes on the CPU (gloo) against one with the doubled batch, started as the README says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file
from tiny import network

from medmerge_hf import load_target


SCRIPT = """
import sys
import timm
import torch
from medmerge_hf import MedMergeModel, MedMergeTrainer, MedMergeTrainingArguments
from medmerge_hf.networks.batch_norm import batch_norms, recalibrate_batch_norm
from medmerge_hf.training.losses import TaskLoss
from safetensors.torch import save_file
from transformers import TrainerCallback

name, folder, size, taught = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "taught"
networks = []
for seed in range(2):
    torch.manual_seed(seed)
    networks.append(timm.create_model(name))
torch.manual_seed(5)
model = MedMergeModel.from_sources(networks, num_labels=3, init=0.3)
side = model.image_processor.data_config["input_size"][-1]
generator = torch.Generator().manual_seed(0)
data = [{"pixel_values": torch.rand(3, side, side, generator=generator), "labels": i % 3} for i in range(27)]
steps = {}

class Watch(TrainerCallback):
    def on_step_end(self, args, state, control, model=None, **kwargs):
        steps[f"step{state.global_step}"] = model.merge.source_bias.detach().clone()

arguments = MedMergeTrainingArguments(
    folder, use_cpu=True, max_steps=4, per_device_train_batch_size=size, kernel_learning_rate=0.5, learning_rate=0.01,
    optim="sgd", save_strategy="steps", save_steps=4, disable_tqdm=True, report_to="none", seed=3, logging_steps=1,
    gradient_accumulation_steps=2 if size == 2 else 1,
)
trainer = MedMergeTrainer(
    model=model, args=arguments, train_dataset=data, eval_dataset=data, callbacks=[Watch()],
    compute_loss_func=TaskLoss(torch.tensor([1.0, 2.0, 0.5])),
    teachers=[timm.create_model(name, num_classes=3)] if taught else None,
)
trainer.train()
steps["losses"] = torch.tensor([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
if arguments.world_size > 1:
    wrapped = trainer.model_wrapped
    assert type(wrapped).__name__ == "DistributedDataParallel", type(wrapped)
    buffers = sum(buffer.nbytes for buffer in wrapped.modules_buffers)
    sources = sum(p.nbytes for p in model.merge.differences.parameters())
    learned = [p for p in wrapped.parameters() if p.requires_grad]
    steps["bytes"] = torch.tensor([buffers, sources, sum(p.nbytes for p in learned)])
parts, norm = torch.arange(12.0).reshape(6, 2), torch.nn.BatchNorm1d(2)
recalibrate_batch_norm(norm, [parts[arguments.process_index :: arguments.world_size]])
steps["recalibrated"] = norm.running_mean
trainer.collapse()
trainer.save_model()
statistics = {f"mean{i}": layer.running_mean for i, layer in enumerate(batch_norms(model))}
statistics |= {f"weight{i}": p.detach() for i, p in enumerate(model.parameters())}
rank = arguments.process_index
save_file({**steps, **statistics, "world": torch.tensor([arguments.world_size])}, f"{folder}.{rank}.safetensors")
"""
RECIPES = Path(__file__).parents[2] / "recipes"
CONFIGS = {1: RECIPES / "accelerate" / "cpu.yaml", 2: RECIPES / "accelerate" / "cpu_two_processes.yaml"}


def launch(processes, *arguments):
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS[processes])]
    command += ["--main_process_port", "0"] if processes > 1 else []
    done = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def start(script, folder, name, processes, size, taught):
    launch(processes, script, name, folder, size, taught)
    return [load_file(f"{folder}.{rank}.safetensors") for rank in range(processes)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "taught"), [("test_convnext", "alone"), ("test_convnext", "taught"), ("test_resnet", "alone")]
)
def test_two_processes_train_in_parts_what_one_trains_in_one_batch(name, taught, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    first, second = start(script, tmp_path / "two", name, processes=2, size=2, taught=taught)
    [alone] = start(script, tmp_path / "one", name, processes=1, size=8, taught=taught)
    assert [int(found["world"]) for found in (first, second, alone)] == [2, 2, 1]
    buffers, sources, learned = first.pop("bytes").tolist()
    assert buffers < 0.05 * sources  # BatchNorm's own; the sources are no buffers
    assert learned < 0.05 * sources
    second.pop("bytes")
    assert all(torch.equal(first[key], second[key]) for key in first)  # all ranks end with one model
    assert torch.allclose(first["recalibrated"], alone["recalibrated"])  # over the images of both
    assert os.listdir(tmp_path / "two" / "checkpoint-4")
    if name == "test_convnext":  # BatchNorm without synchronisation sees other batches
        for step in range(1, 5):
            assert torch.allclose(first[f"step{step}"], alone[f"step{step}"], atol=1e-5 * step)
        assert torch.allclose(first["losses"], alone["losses"], atol=1e-6)
        assert not torch.allclose(first["step4"], torch.full_like(first["step4"], 0.3), atol=1e-3)


@pytest.mark.parametrize("file", sorted((RECIPES / "accelerate").glob("*.yaml")), ids=lambda file: file.stem)
def test_accelerate_reads_every_shipped_config(file):
    assert load_config_from_file(str(file)).num_processes >= 1


@pytest.mark.slow
def test_the_recipe_runs_in_two_processes_and_one_of_them_writes(vessels, tmp_path):
    for seed in range(2):
        timm.models.save_for_hf(network(seed), tmp_path / str(seed), safe_serialization=True)
    stage = "{num_train_epochs: 1, use_cpu: true, disable_tqdm: true, per_device_train_batch_size: 4}"
    text = f"sources: [{tmp_path}/0, {tmp_path}/1]\ndata: {vessels}\nimage_size: 32\nresamples: 10\n"
    few = {"label_fraction": 0.5, "unlabelled": True}
    text += yaml.safe_dump({**few, "match_shares": True})
    (tmp_path / "config.yaml").write_text(f"{text}merge: {stage}\nfinetune: {stage}\n")
    for _ in range(2):  # the second time it finds everything done
        launch(2, RECIPES / "train.py", tmp_path / "config.yaml", "--output_dir", tmp_path / "out")
    record = json.loads((tmp_path / "out" / "medmerge" / "config.json").read_text())["record"]
    assert [record["training"][stage]["processes"] for stage in ("merge", "finetune")] == [2, 2]
    assert record["training"]["merge"]["steps_taken"] == 2  # 12 images, 2 x 4 a step
    assert record["training"]["match"]["unlabelled_images"] == len(load_target(vessels, **few).unlabelled)
    assert [row["images"] for row in record["results"]] == [12, 12, 12]
