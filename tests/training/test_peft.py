import shutil

import pytest
import torch
from tiny import network
from transformers import TrainingArguments

from medmerge_hf import MedMergeModel, MedMergeTrainer
from medmerge_hf.training.checkpoints import checkpoint_problems, last_checkpoint


peft = pytest.importorskip("peft")


def adapted():
    """LoRA and a new head on a collapsed network, whose BatchNorm statistics move while it trains."""
    torch.manual_seed(0)
    model = MedMergeModel.from_sources([network(seed) for seed in range(2)], num_labels=3, init=0.3).collapse()
    lora = peft.LoraConfig(r=2, target_modules=r".*layer\d.*conv\d", modules_to_save=["fc"])
    return peft.get_peft_model(model, lora)


def train(model, folder, images, resume=None):
    arguments = TrainingArguments(
        str(folder), max_steps=4, save_steps=2, use_cpu=True, disable_tqdm=True, report_to="none", learning_rate=0.1
    )
    data = [{"pixel_values": image, "labels": index % 3} for index, image in enumerate(images.repeat(4, 1, 1, 1))]
    MedMergeTrainer(model, arguments, train_dataset=data).train(resume_from_checkpoint=resume)
    return model.eval()


def test_a_run_that_is_resumed_ends_where_it_would_have(tmp_path, images):
    whole = train(adapted(), tmp_path, images)
    assert checkpoint_problems(tmp_path / "checkpoint-2") == []
    shutil.rmtree(tmp_path / "checkpoint-4")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    resumed = train(adapted(), tmp_path, images, resume=True).state_dict()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed[name], tensor), name


def test_a_checkpoint_without_its_adapter_is_not_whole(tmp_path, images):
    train(adapted(), tmp_path, images)
    (tmp_path / "checkpoint-2" / "adapter_model.safetensors").unlink()
    assert checkpoint_problems(tmp_path / "checkpoint-2") == ["model.safetensors is missing"]
