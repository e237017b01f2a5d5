import pytest
import torch
from conftest import network
from safetensors.torch import load_file
from transformers import ResNetConfig, ResNetForImageClassification, TrainerCallback

from medmerge_hf import MedMergeModel, MedMergeTrainer, MedMergeTrainingArguments
from medmerge_hf.averaging import RAW
from medmerge_hf.distillation import SourceFeatures, linear_cka
from medmerge_hf.errors import SettingsError
from medmerge_hf.levers import START, StartingPoint, layer_scales
from medmerge_hf.networks import observed_features


DATA = [{"pixel_values": torch.rand(3, 32, 32), "labels": i % 2} for i in range(16)]


def train(model, folder, steps=4, resume=None, batch=4, **kwargs):
    args = MedMergeTrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=batch, use_cpu=True, disable_tqdm=True, **kwargs
    )
    trainer = MedMergeTrainer(model=model, args=args, train_dataset=DATA)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def merging(**kwargs):
    torch.manual_seed(0)
    return MedMergeModel.from_sources([network(0), network(1)], num_labels=2, image_size=32, **kwargs)


class Watch(TrainerCallback):
    def __init__(self):
        self.seen = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.seen.append(float(model.merge.source_bias.abs().max()))


def test_the_head_learns_alone_at_first(tmp_path):
    model, watch = merging(), Watch()
    head = model.network.timm_model.fc.weight.clone()
    args = MedMergeTrainingArguments(str(tmp_path), max_steps=8, use_cpu=True, disable_tqdm=True, kernel_delay=0.5)
    MedMergeTrainer(model=model, args=args, train_dataset=DATA, callbacks=[watch]).train()
    assert watch.seen[:4] == [0.0] * 4
    assert watch.seen[4] > 0
    assert not torch.equal(head, model.network.timm_model.fc.weight)


@pytest.mark.parametrize("binary", [False, True])
def test_a_pull_draws_kernels_to_where_it_is_meant_to(tmp_path, binary):
    model = merging(init=0.8)
    train(
        model,
        tmp_path,
        steps=20,
        kernel_pull=1e4,
        kernel_pull_binary=binary,
        kernel_learning_rate=0.05,
        save_strategy="no",
    )
    weights = model.merge.source_bias.detach()
    assert (weights - (1.0 if binary else 0.0)).abs().mean() < (0.2 if binary else 0.8)
    assert (weights.mean() > 0.8) == binary


def test_dropout_leaves_sources_out_in_training_alone():
    model = merging(init=1.0)
    images = torch.rand(4, 3, 32, 32)
    model.eval()
    expected = model(images).logits
    model.merge.dropout = 0.5
    assert torch.equal(model(images).logits, expected)
    model.merge.train()
    share = torch.cat([w.flatten() for w in model.merge.split(model.merge.source_bias).values()])
    assert 0.4 < share.mean() < 0.6
    assert set(share.detach().unique().tolist()) == {0.0, 1.0}


def test_layers_near_the_image_learn_slower(tmp_path):
    model = merging().collapse()
    trainer = train(
        model, tmp_path, steps=1, layer_decay=0.5, learning_rate=1e-3, save_strategy="no", lr_scheduler_type="constant"
    )
    rates = {id(p): group["lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
    net = model.network.timm_model
    assert rates[id(net.conv1[0].weight)] < rates[id(net.layer2[0].conv1.weight)] < rates[id(net.fc.weight)]
    assert rates[id(net.fc.weight)] == pytest.approx(1e-3)
    assert sorted(rates) == sorted(id(p) for p in model.parameters())


def test_transformers_networks_have_layers_too():
    native = ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1]))
    scales = layer_scales(native, 0.5)
    stem = native.resnet.embedder.embedder.convolution.weight
    assert scales[id(stem)] < scales[id(native.resnet.encoder.stages[1].layers[0].layer[0].convolution.weight)] == 1.0


def test_l2_sp_keeps_fine_tuning_near_the_merge(tmp_path):
    far, near = merging().collapse(), merging().collapse()
    start = [p.detach().clone() for p in far.network.timm_model.parameters()]
    train(far, tmp_path / "far", steps=10, learning_rate=1e-2, save_strategy="no")
    train(near, tmp_path / "near", steps=10, learning_rate=1e-2, l2_sp=10.0, save_strategy="no")

    def distance(model):
        return sum(
            float((p - s).square().sum()) for p, s in zip(model.network.timm_model.parameters(), start, strict=True)
        )

    assert distance(near) < 0.5 * distance(far)


def test_a_resumed_run_is_drawn_to_where_it_began(tmp_path):
    model = merging().collapse()
    StartingPoint(model.network, tmp_path, resumed=False, write=True)
    assert (tmp_path / START).is_file()
    with torch.no_grad():
        model.network.timm_model.conv1[0].weight += 1.0
    again = StartingPoint(model.network, tmp_path, resumed=True, write=True)
    assert float(again.distance()) == pytest.approx(0.5 * model.network.timm_model.conv1[0].weight.numel(), rel=1e-3)


def test_distillation_keeps_the_sources_view_of_the_images(tmp_path):
    images = torch.stack([row["pixel_values"] for row in DATA])

    def apart(model):
        with torch.no_grad(), observed_features(model) as seen:
            model.train()(images)
        return float(SourceFeatures(model).loss(seen[-1], images))

    plain, held = merging(init=0.5), merging(init=0.5)
    start = apart(plain)
    args = {"steps": 15, "batch": 16, "kernel_learning_rate": 0.02, "save_strategy": "no"}
    train(plain, tmp_path / "plain", **args)
    train(held, tmp_path / "held", kernel_distill=100.0, **args)
    assert apart(held) < start
    assert apart(held) < apart(plain)


def test_cka_knows_no_rotation_and_no_scale():
    torch.manual_seed(0)
    features, others = torch.randn(32, 8), torch.randn(32, 8)
    rotation = torch.linalg.qr(torch.randn(8, 8))[0]
    assert float(linear_cka(features, 5 * features @ rotation + 1)) == pytest.approx(1.0, abs=1e-5)
    assert float(linear_cka(features, others)) < 0.6


def test_the_average_of_the_weights_is_what_is_evaluated_and_kept(tmp_path):
    model = merging().collapse()
    before = model.network.timm_model.fc.weight.detach().clone()
    trainer = train(
        model, tmp_path, steps=4, learning_rate=1e-2, lr_scheduler_type="constant", weight_average=0.9, save_steps=4
    )
    raw = load_file(tmp_path / "checkpoint-4" / RAW)["network.timm_model.fc.weight"]
    kept = load_file(tmp_path / "checkpoint-4" / "model.safetensors")["fc.weight"]
    assert torch.equal(model.network.timm_model.fc.weight, kept)
    assert 0 < float((kept - before).norm()) < float((raw - before).norm())
    assert trainer.evaluate(DATA)["eval_loss"] > 0


def test_a_resumed_average_ends_where_an_uninterrupted_one_does(tmp_path):
    args = {"learning_rate": 1e-2, "weight_average": 0.9, "save_steps": 4, "lr_scheduler_type": "constant"}
    whole, half = merging().collapse(), merging().collapse()
    train(whole, tmp_path / "whole", steps=8, **args)
    train(half, tmp_path / "half", steps=4, **args)
    again = MedMergeModel.from_pretrained(tmp_path / "half" / "checkpoint-4")
    train(again, tmp_path / "half", steps=8, resume=True, **args)
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kernel_delay": 1.0},
        {"kernel_dropout": -0.1},
        {"kernel_pull": -1.0},
        {"layer_decay": 0.0},
        {"l2_sp": -1.0},
        {"weight_average": 1.0},
        {"kernel_distill": -1.0},
    ],
)
def test_levers_out_of_range_are_refused(wrong, tmp_path):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        MedMergeTrainingArguments(str(tmp_path), **wrong)


def test_sources_may_begin_apart_and_parts_may_stay_out():
    three = [network(seed) for seed in range(3)]
    model = MedMergeModel.from_sources(
        three, num_labels=2, image_size=32, init=[0.2, 0.6], exclude=["bn1.*"], freeze=["layer4.*"]
    )
    assert model.merge.source_bias[:, 0].tolist() == pytest.approx([0.2, 0.6])
    assert not any(name.startswith("bn1.") for name in model.merge.names)
    model.train()
    model(torch.rand(2, 3, 32, 32), labels=torch.tensor([0, 1])).loss.backward()
    grad = model.merge.split(model.merge.source_bias.grad)
    assert all((part == 0).all() for name, part in grad.items() if name.startswith("layer4."))
    assert (grad["conv1.0.weight"] != 0).all()
    bn1 = three[0].bn1.weight
    assert torch.equal(model.collapse().network.timm_model.bn1.weight, bn1)
    assert "bn1.weight" not in set(model.kernel_weights()["tensor"])


@pytest.mark.parametrize("wrong", [{"include": ["nothing.*"]}, {"exclude": ["*"]}, {"init": [0.1, 0.2]}])
def test_choices_that_fit_nothing_are_refused(wrong):
    with pytest.raises(SettingsError):
        MedMergeModel.from_sources([network(0), network(1)], num_labels=2, **wrong)


def test_shares_sum_to_one_in_every_stage_and_kind():
    model = merging(init=0.25)
    shares = model.source_shares()
    assert set(shares["kind"]) == {"Conv2d", "BatchNorm2d"}
    assert shares.groupby(["stage", "kind"])["share"].sum().tolist() == pytest.approx(
        [1.0] * len(shares.groupby(["stage", "kind"]))
    )


def test_weights_of_either_sign_do_not_cancel_in_their_size():
    model = merging()
    weights = model.merge.source_bias.data[0]
    weights.copy_(torch.where(torch.arange(len(weights)) % 2 == 0, 0.5, -0.5))
    shares = model.source_shares()
    other = shares[shares["source"] != shares["source"][0]]
    assert other["size"].tolist() == pytest.approx([0.5] * len(other))
    assert other["share"].abs().max() < 0.5
