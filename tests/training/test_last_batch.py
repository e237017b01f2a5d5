import pytest
import torch
from tiny import network

from medmerge_hf import MedMergeModel, MedMergeTrainer, MedMergeTrainingArguments
from medmerge_hf.errors import SettingsError
from medmerge_hf.training.last_batch import fails_on_one_image


def rows(count, size=32):
    generator = torch.Generator().manual_seed(0)
    return [{"pixel_values": torch.rand(3, size, size, generator=generator), "labels": i % 3} for i in range(count)]


def trainer_for(model, folder, count, size=32, **options):
    quiet = {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "report_to": "none", "num_train_epochs": 2}
    args = MedMergeTrainingArguments(str(folder), **quiet, **options)
    return MedMergeTrainer(model=model, args=args, train_dataset=rows(count, size))


def test_a_last_batch_of_one_image_is_left_out_with_a_word(model, tmp_path, caplog):
    trainer = trainer_for(model, tmp_path, 9, per_device_train_batch_size=4)
    trainer.train()
    assert trainer.state.global_step == 4
    assert "9 images in batches of 4: the last one would be alone" in caplog.text
    assert not trainer.args.dataloader_drop_last
    trainer.collapse()  # whose statistics are of all images
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


def test_accumulation_leaves_it_out_as_well(model, tmp_path):
    trainer = trainer_for(model, tmp_path, 9, per_device_train_batch_size=2, gradient_accumulation_steps=3)
    trainer.train()
    assert trainer.state.global_step == 4


@pytest.mark.parametrize(("name", "size"), [("test_resnet", 64), ("test_convnext", 32)])
def test_a_network_that_learns_from_one_image_sees_it(name, size, tmp_path):
    model = MedMergeModel.from_sources([network(seed, name) for seed in range(2)], num_labels=3, image_size=size)
    trainer = trainer_for(model, tmp_path, 5, size, per_device_train_batch_size=4)
    trainer.train()
    assert trainer.state.global_step == 4


def test_a_frozen_backbone_learns_no_statistics_and_sees_it(model, tmp_path):
    from medmerge_hf.training.single_source import freeze_backbone

    trainer = trainer_for(freeze_backbone(model.collapse()), tmp_path, 5, per_device_train_batch_size=4)
    trainer.train()
    assert trainer.state.global_step == 4


@pytest.mark.parametrize(("count", "size"), [(5, 1), (1, 4)])
def test_batches_of_one_image_are_refused_before_the_first_step(model, count, size, tmp_path):
    trainer = trainer_for(model, tmp_path, count, per_device_train_batch_size=size)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(SettingsError, match="at least 2 images"):
        trainer.train()
    assert trainer.state.global_step == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_dropping_the_only_batch_is_refused(model, tmp_path):
    trainer = trainer_for(model, tmp_path, 5, per_device_train_batch_size=8, dataloader_drop_last=True)
    with pytest.raises(SettingsError, match="leaves no batch: 5 images, 1 x 8 a step"):
        trainer.train()


def test_looking_changes_neither_statistics_nor_random_numbers(model):
    model.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    assert fails_on_one_image(model, lambda: torch.rand(1, 3, 32, 32))
    assert not fails_on_one_image(model, lambda: torch.rand(1, 3, 64, 64))
    assert torch.equal(torch.rand(1), expected)
    assert not model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
