import pytest
import torch
from tiny import network
from transformers import Trainer, TrainingArguments

from medmerge_hf import MedMergeTrainer, single_source_model
from medmerge_hf.networks.batch_norm import batch_norms
from medmerge_hf.training.single_source import freeze_backbone


def statistics(model):
    return [(layer.running_mean.clone(), layer.num_batches_tracked.clone()) for layer in batch_norms(model)]


@pytest.mark.parametrize("trainer", [MedMergeTrainer, Trainer])
def test_a_linear_probe_learns_the_head_and_leaves_the_statistics_of_the_backbone(trainer, tmp_path):
    model = freeze_backbone(single_source_model(network(0), num_labels=2, image_size=32))
    data = [{"pixel_values": torch.rand(3, 32, 32), "labels": i % 2} for i in range(8)]
    args = TrainingArguments(str(tmp_path), max_steps=2, learning_rate=0.1, use_cpu=True, save_strategy="no")
    before, head = statistics(model), model.network.timm_model.fc.weight.clone()
    trainer(model=model, args=args, train_dataset=data).train()
    for then, now in zip(before, statistics(model), strict=True):
        assert all(torch.equal(one, other) for one, other in zip(then, now, strict=True))
    assert not torch.equal(model.network.timm_model.fc.weight, head)


def test_statistics_move_again_once_everything_learns(tmp_path):
    model = freeze_backbone(freeze_backbone(single_source_model(network(0), num_labels=2, image_size=32)), False)
    before = statistics(model)
    model.train()(torch.rand(4, 3, 32, 32))
    assert not torch.equal(before[0][0], statistics(model)[0][0])
