import pytest
import torch
from safetensors.torch import load_file
from tiny import network
from transformers import Trainer, TrainerCallback, TrainingArguments

from medmerge_hf import MedMergeModel, MedMergeTrainer, MedMergeTrainingArguments, make_compute_metrics
from medmerge_hf.errors import SettingsError, StateError
from medmerge_hf.networks.backbone import backbone_parameters
from medmerge_hf.networks.batch_norm import batch_norms
from medmerge_hf.training.single_source import freeze_backbone, single_source_model


def rows(count=12):
    generator = torch.Generator().manual_seed(0)
    return [{"pixel_values": torch.rand(3, 32, 32, generator=generator), "labels": i % 3} for i in range(count)]


def arguments(folder, kind=MedMergeTrainingArguments, **kwargs):
    values = {"max_steps": 3, "per_device_train_batch_size": 4, "use_cpu": True, "disable_tqdm": True, "seed": 0}
    values |= {"output_dir": str(folder), "save_strategy": "no", "weight_decay": 0.1, "dataloader_pin_memory": False}
    return kind(**(values | kwargs))


def trainer_for(model, folder, kind=MedMergeTrainer, **kwargs):
    callbacks = kwargs.pop("callbacks", None)
    return kind(
        model=model,
        args=arguments(folder, **kwargs),
        train_dataset=rows(),
        eval_dataset=rows(5),
        compute_metrics=make_compute_metrics(3),
        callbacks=callbacks,
    )


@pytest.mark.parametrize("kind", [MedMergeTrainer, Trainer])
def test_merge_stage_moves_kernel_weights_and_head_and_nothing_else(model, tmp_path, kind):
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    trainer_for(model, tmp_path, kind).train()
    moved = {name for name, tensor in model.named_parameters() if not torch.equal(tensor, before[name])}
    assert moved == {"merge.source_bias", "network.timm_model.fc.weight", "network.timm_model.fc.bias"}


def test_persistent_workers_look_at_the_images_that_are_asked_for(model, tmp_path):
    trainer = trainer_for(model, tmp_path, dataloader_num_workers=1, dataloader_persistent_workers=True)
    asked = [None, rows(3), rows(7), None]
    assert [len(trainer.get_eval_dataloader(images).dataset) for images in asked] == [5, 3, 7, 5]
    assert trainer.get_eval_dataloader() is trainer.get_eval_dataloader()


@pytest.mark.parametrize("kind", [MedMergeTrainer, Trainer])
def test_kernel_weights_never_decay(model, tmp_path, kind):
    optimizer = trainer_for(model, tmp_path, kind).create_optimizer()
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay[id(model.merge.source_bias)] == 0
    assert decay[id(model.network.timm_model.fc.weight)] == 0.1


@pytest.mark.parametrize(
    ("kind", "expected"), [(MedMergeTrainingArguments, 0.3), (TrainingArguments, 1e-2)], ids=["own", "plain"]
)
def test_kernel_weights_have_their_own_learning_rate(model, tmp_path, kind, expected):
    extra = {"kernel_learning_rate": 0.3} if kind is MedMergeTrainingArguments else {}
    trainer = MedMergeTrainer(model=model, args=arguments(tmp_path, kind, learning_rate=1e-4, **extra))
    rates = {id(p): g["lr"] for g in trainer.create_optimizer().param_groups for p in g["params"]}
    assert rates[id(model.merge.source_bias)] == expected
    assert rates[id(model.network.timm_model.fc.weight)] == 1e-4
    assert len(rates) == 3


def test_both_stages_then_export(model, tmp_path):
    trainer = trainer_for(model, tmp_path / "merge")
    trainer.train()
    weights = model.merge.source_bias.detach().clone()
    assert trainer.collapse() is model
    trainer = trainer_for(model, tmp_path / "finetune")
    conv = model.network.timm_model.conv1[0].weight.detach().clone()
    trainer.train()
    assert not torch.equal(conv, model.network.timm_model.conv1[0].weight)
    assert torch.equal(model.merge_state["merge.source_bias"], weights)
    trainer.save_model(tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.bin"))
    again = MedMergeModel.from_pretrained(tmp_path / "out")
    assert torch.equal(again.network.timm_model.fc.bias, model.network.timm_model.fc.bias)


def test_collapse_estimates_statistics_on_the_training_images(model, tmp_path):
    trainer = trainer_for(model, tmp_path)
    plain = trainer.model.plain_model().train()
    norm = batch_norms(trainer.collapse())[0]
    images = torch.stack([row["pixel_values"] for row in rows()])
    means = plain.timm_model.conv1[0](images).mean((0, 2, 3))
    assert torch.allclose(norm.running_mean, means, atol=1e-5)


def test_best_kernel_weights_are_loaded_at_the_end(model, tmp_path):
    seen = {}

    class Remember(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics, **kwargs):
            seen[state.global_step] = (metrics["eval_loss"], model.merge.source_bias.detach().clone())

    options = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 4}
    options |= {"load_best_model_at_end": True, "kernel_learning_rate": 0.5, "save_total_limit": 1}
    trainer = trainer_for(model, tmp_path, callbacks=[Remember()], **options)
    trainer.train()
    best = min(seen.values(), key=lambda pair: pair[0])[1]
    assert torch.equal(model.merge.source_bias, best)
    assert len({tuple(w.flatten().tolist()) for _, w in seen.values()}) == 4


def test_merge_checkpoints_are_small_and_load(sources, tmp_path):
    from safetensors.torch import save_file

    files = []
    for index, source in enumerate(sources):
        files.append(str(tmp_path / f"{index}.safetensors"))
        save_file(source.state_dict(), files[-1])
    model = MedMergeModel.from_sources(files, architecture="test_resnet", num_labels=3, image_size=32)
    trainer_for(model, tmp_path, save_strategy="steps", save_steps=3).train()
    checkpoint = tmp_path / "checkpoint-3"
    assert "network.timm_model.conv1.0.weight" not in load_file(checkpoint / "model.safetensors")
    again = MedMergeModel.from_pretrained(checkpoint)
    images = torch.stack([row["pixel_values"] for row in rows()])
    assert again.merging
    with torch.no_grad():
        assert torch.equal(again(images).logits, model.eval()(images).logits)


def test_finetune_checkpoints_are_exports_and_the_best_is_loaded(model, tmp_path):
    model.collapse()
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    trainer = trainer_for(model, tmp_path, load_best_model_at_end=True, learning_rate=0.01, **options)
    trainer.train()
    best = MedMergeModel.from_pretrained(trainer.state.best_model_checkpoint)
    for (name, ours), (_, theirs) in zip(model.state_dict().items(), best.state_dict().items(), strict=True):
        assert torch.equal(ours, theirs), name


def test_plain_trainer_refuses_to_restore_what_it_did_not_save(model, tmp_path):
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    trainer = trainer_for(model, tmp_path, Trainer, load_best_model_at_end=True, **options)
    with pytest.raises(StateError, match="train with MedMergeTrainer"):
        trainer.train()


def test_evaluation_logs_the_kernel_weights_of_each_stage(model, tmp_path):
    trainer = trainer_for(model, tmp_path)
    trainer.evaluate()
    logged = trainer.state.log_history[-1]
    assert {"eval_macro_f1", "kernel_weight/layer1/mean", "kernel_weight/layer4/std"} <= logged.keys()
    assert logged["kernel_weight/layer4/mean"] == pytest.approx(0.2, abs=0.05)


def test_evaluation_sees_every_image_though_training_drops_the_last_batch(model, tmp_path):
    trainer = trainer_for(model, tmp_path, dataloader_drop_last=True, per_device_eval_batch_size=4)
    assert len(trainer.predict(rows(5)).predictions) == 5
    assert trainer.args.dataloader_drop_last


def test_same_seed_same_kernel_weights(tmp_path):
    found = []
    for run in range(2):
        torch.manual_seed(0)
        merge = MedMergeModel.from_sources([network(0), network(1)], num_labels=3, image_size=32)
        trainer_for(merge, tmp_path / str(run)).train()
        found.append(merge.merge.source_bias.detach())
    assert torch.equal(*found)
    assert found[0].abs().sum() > 0


def test_linear_probing_of_a_single_source_moves_the_head_alone(tmp_path):
    model = freeze_backbone(single_source_model(network(0), num_labels=3, image_size=32))
    assert torch.equal(model.network.timm_model.conv1[0].weight, network(0).conv1[0].weight)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    trainer_for(model, tmp_path).train()
    moved = {name for name, tensor in model.named_parameters() if not torch.equal(tensor, before[name])}
    assert moved == {"network.timm_model.fc.weight", "network.timm_model.fc.bias"}
    assert all(p.requires_grad for p in freeze_backbone(model, False).parameters())


def test_an_l2_penalty_draws_the_kernel_weights_to_the_anchor(sources, tmp_path):
    sizes = []
    for strength in (0.0, 1e4):
        torch.manual_seed(0)
        model = MedMergeModel.from_sources(sources, num_labels=3, init=0.8)
        trainer_for(model, tmp_path, max_steps=20, kernel_l2=strength, kernel_learning_rate=0.05).train()
        sizes.append(float(model.merge.source_bias.detach().square().mean()))
    assert sizes[1] < 0.64 < 2 * sizes[0]
    assert sizes[1] < 0.5 * sizes[0]


@pytest.mark.parametrize("strength", [-1.0, float("nan")])
def test_a_strength_that_is_none_is_refused(tmp_path, strength):
    with pytest.raises(SettingsError, match="kernel_l2"):
        arguments(tmp_path, kernel_l2=strength)


def test_bfloat16_accumulation_and_clipping_leave_kernel_weights_in_float32(model, tmp_path):
    before = model.merge.source_bias.detach().clone()
    trainer_for(model, tmp_path, bf16=True, gradient_accumulation_steps=2, max_grad_norm=0.1).train()
    assert model.merge.source_bias.dtype == torch.float32
    assert not torch.equal(model.merge.source_bias, before)
    assert {p.dtype for p in model.merge.differences.parameters()} == {torch.float32}
    merged = model.merge(backbone_parameters(model.network))
    assert {tensor.dtype for tensor in merged.values()} == {torch.float32}


def test_sharding_is_refused_while_merging_and_not_afterwards(model, tmp_path):
    args = arguments(tmp_path)
    args.deepspeed = {"zero_optimization": {"stage": 3}}  # set late: DeepSpeed itself is not installed
    with pytest.raises(SettingsError, match="cannot be sharded"):
        MedMergeTrainer(model=model, args=args)
    assert MedMergeTrainer(model=model.collapse(), args=args).model is model


def test_accumulated_batches_give_the_step_of_the_whole_batch(sources, tmp_path):
    weights = []
    for size, accumulation in ((4, 1), (2, 2)):
        torch.manual_seed(0)
        model = MedMergeModel.from_sources([network(s, "test_convnext") for s in range(2)], num_labels=3, init=0.3)
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation, "optim": "sgd"}
        trainer_for(model, tmp_path, **options, kernel_learning_rate=0.5).train()
        weights.append(model.merge.source_bias.detach().clone())
    assert not torch.allclose(weights[0], torch.full_like(weights[0], 0.3))
    assert torch.allclose(*weights, atol=1e-5)


def test_compiled_training_gives_the_same_kernel_weights_and_exports(tmp_path):
    weights = []
    for folder, compiled in (("plain", False), ("compiled", True)):
        torch.manual_seed(0)
        merge = MedMergeModel.from_sources([network(0), network(1)], num_labels=3, image_size=32, init=0.3)
        options = {"torch_compile": True, "torch_compile_backend": "eager"} if compiled else {}
        trainer = trainer_for(merge, tmp_path / folder, **options)
        trainer.train()
        weights.append(merge.merge.source_bias.detach().clone())
        trainer.collapse()
        trainer.save_model(tmp_path / folder / "out")
        assert MedMergeModel.from_pretrained(tmp_path / folder / "out").merge_state
    assert torch.allclose(*weights, atol=1e-4)
