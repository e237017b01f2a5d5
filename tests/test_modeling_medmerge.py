import pytest
import torch
from tiny import network
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

from medmerge_hf import MedMergeConfig, MedMergeModel
from medmerge_hf.errors import SettingsError, StateError, TooFewSourcesError
from medmerge_hf.merging.kernel_table import block_statistics
from medmerge_hf.merging.kernel_weights import CONSTRAINTS, GRANULARITIES
from medmerge_hf.networks.backbone import backbone_parameters


def native(kind, seed):
    torch.manual_seed(seed)
    if kind == "resnet":
        config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], num_labels=5)
        return ResNetForImageClassification(config).eval()
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    return ViTForImageClassification(config).eval()


def test_weight_0_gives_the_anchors_weights_and_features_bit_for_bit(sources, images):
    model = MedMergeModel.from_sources(sources, num_labels=3).eval()
    plain = model.plain_model().timm_model
    for name, parameter in sources[0].named_parameters():
        if not name.startswith("fc."):
            assert torch.equal(parameter, plain.get_parameter(name)), name
    with torch.no_grad():
        assert torch.equal(plain.forward_features(images), sources[0].forward_features(images))
        assert torch.equal(model(images).logits, plain(images))


def test_weight_1_gives_the_other_source(sources):
    model = MedMergeModel.from_sources(sources, num_labels=3, init=1.0)
    plain = model.plain_model().timm_model
    for name, parameter in sources[1].named_parameters():
        if not name.startswith("fc."):
            assert torch.allclose(parameter, plain.get_parameter(name), atol=1e-6), name


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_collapse_computes_what_the_merge_computed(granularity, constraint, images):
    three = [network(seed) for seed in range(3)]
    model = MedMergeModel.from_sources(three, num_labels=2, granularity=granularity, constraint=constraint, init=0.2)
    torch.nn.init.normal_(model.merge.source_bias, 0, 0.1)
    with torch.no_grad():
        merged = model.eval()(images).logits
        assert torch.equal(model.collapse()(images).logits, merged)
    assert not model.merging
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_efficientnet", "test_byobnet"])
def test_other_timm_networks_merge_and_collapse(name):
    model = MedMergeModel.from_sources([network(seed, name) for seed in range(2)], num_labels=2, init=0.3).eval()
    x = torch.rand(1, *model.network.config.pretrained_cfg["input_size"])
    with torch.no_grad():
        merged = model(x).logits
        assert torch.isfinite(merged).all()
        assert torch.equal(model.collapse()(x).logits, merged)


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_native_transformers_networks_export_to_their_own_class(kind, tmp_path, images):
    model = MedMergeModel.from_sources(
        [native(kind, 0), native(kind, 1)], num_labels=3, image_size=32, init=0.3
    ).eval()
    model.save_pretrained(tmp_path / "out")
    plain = type(native(kind, 0)).from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        assert torch.allclose(plain(images).logits, model(images).logits, atol=1e-6)
    assert (tmp_path / "out" / "preprocessor_config.json").is_file()


def test_a_bare_backbone_is_a_source_of_its_classifier(images):
    anchor, other = native("resnet", 0), native("resnet", 1)
    whole = MedMergeModel.from_sources([anchor, other], num_labels=3, init=0.4).plain_model()
    bare = MedMergeModel.from_sources([anchor, other.resnet], num_labels=3, init=0.4).plain_model()
    assert torch.equal(whole.resnet(images).pooler_output, bare.resnet(images).pooler_output)


def test_gradient_reaches_kernel_weights_and_head_alone(model, images):
    model.train()
    model(images, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    learned = {name for name, p in model.named_parameters() if p.grad is not None}
    assert learned == {"merge.source_bias", "network.timm_model.fc.weight", "network.timm_model.fc.bias"}
    assert all(model.get_parameter(name).grad.abs().sum() > 0 for name in learned)


def test_frozen_sources_are_parameters_and_not_buffers(model):
    """DDP sends every buffer to every process at every step."""
    assert not any(name.startswith("merge") for name, _ in model.named_buffers())
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert frozen == 2 * sum(p.numel() for p in backbone_parameters(model.network).values())


@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [
        (None, torch.tensor([0, 1, 2, 0])),
        ("single_label_classification", torch.tensor([0, 1, 2, 0])),
        ("multi_label_classification", torch.ones(4, 3)),
        ("regression", torch.zeros(4, 3)),
    ],
)
def test_loss_follows_the_problem_type(sources, images, problem_type, labels):
    model = MedMergeModel.from_sources(sources, num_labels=3, problem_type=problem_type)
    out = model(images, labels=labels)
    expected = {
        "multi_label_classification": torch.nn.functional.binary_cross_entropy_with_logits,
        "regression": torch.nn.functional.mse_loss,
    }.get(problem_type, torch.nn.functional.cross_entropy)(out.logits, labels)
    assert torch.allclose(out.loss, expected)


def test_kernel_weights_are_a_tidy_table_whose_weights_sum_to_1(model):
    table = model.kernel_weights()
    assert list(table.columns) == ["tensor", "kernel", "source", "weight"]
    backbone = backbone_parameters(model.network)
    assert len(table) == 2 * sum(p.shape[0] for p in backbone.values())
    assert table["source"].nunique() == 2
    sums = table.assign(first=range(len(table))).groupby(["tensor", "kernel"])["weight"].sum()
    assert sums.between(1 - 1e-5, 1 + 1e-5).all()


def test_kernel_weights_stay_after_the_collapse(model):
    before = model.kernel_weights()
    assert model.collapse().kernel_weights().equals(before)
    assert block_statistics(*model.kernel_layout())["kernel_weight/layer1/mean"] == pytest.approx(0.2, abs=0.05)


def test_collapsing_twice_is_refused(model):
    model.collapse()
    with pytest.raises(StateError, match="is collapsed"):
        model.collapse()


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_gradient_checkpointing_changes_no_gradient_while_merging(name, images):
    def gradients(checkpointing):
        torch.manual_seed(0)
        sources = [network(seed, name) for seed in range(2)]
        model = MedMergeModel.from_sources(sources, num_labels=3, init=0.5).train()
        size = model.image_processor.data_config["input_size"][-1]
        pixels = torch.nn.functional.interpolate(images, size)
        if checkpointing:
            model.gradient_checkpointing_enable()
        for _ in range(2):
            model(pixels, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
        assert all(isinstance(p, torch.nn.Parameter) for p in backbone_parameters(model.network).values())
        return model.merge.source_bias.grad

    plain = gradients(False)
    assert plain.abs().sum() > 0
    assert torch.allclose(gradients(True), plain, rtol=1e-4, atol=1e-7)


def test_gradient_checkpointing_changes_no_gradient_of_a_native_network(images):
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        sources = [ViTForImageClassification(config) for _ in range(2)]
        model = MedMergeModel.from_sources(sources, num_labels=3, init=0.5).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(images, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
        gradients.append(model.merge.source_bias.grad)
    assert gradients[0].abs().sum() > 0
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-7)


def test_gradient_checkpointing_works_once_collapsed(model, images):
    model.collapse().gradient_checkpointing_enable()
    model.train()(images, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    assert model.network.timm_model.conv1[0].weight.grad.abs().sum() > 0


def test_a_state_dict_between_forward_and_backward_holds_the_anchor(model, images):
    model.gradient_checkpointing_enable()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if "running" not in name}
    model.train()(images)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items() if "num_b" not in name)


def test_evaluation_blends_once_and_again_after_anything_changed(model, images, monkeypatch):
    blends = []
    blend = type(model.merge).forward
    monkeypatch.setattr(type(model.merge), "forward", lambda self, anchor: blends.append(1) or blend(self, anchor))
    with torch.no_grad():
        first = model(images).logits
        assert torch.equal(model(images).logits, first)
        assert len(blends) == 1
        model.merge.source_bias.data.add_(0.1)  # .data hides it from the version counter
        second = model(images).logits
        assert not torch.equal(second, first)
        model.network.timm_model.conv1[0].weight.add_(0.1)
        assert not torch.equal(model(images).logits, second)
    assert len(blends) == 3
    model(images)
    model(images)
    assert len(blends) == 5  # with gradients there is nothing to keep


def test_sources_held_in_bfloat16_take_half_and_collapse_to_what_they_computed(sources, images, tmp_path):
    exact = MedMergeModel.from_sources(sources, num_labels=3, image_size=32, init=0.5)
    torch.manual_seed(0)
    model = MedMergeModel.from_sources(sources, num_labels=3, image_size=32, init=0.5, source_dtype="bfloat16")
    size = [sum(p.nbytes for p in m.merge.differences.parameters()) for m in (model, exact)]
    assert size[0] == size[1] / 2
    expected = model(images).logits
    expected.sum().backward()
    assert model.merge.source_bias.grad.abs().sum() > 0
    own, other = model.plain_model().state_dict(), exact.plain_model().state_dict()
    for name, tensor in own.items():
        if "fc" not in name:
            assert torch.allclose(tensor, other[name], rtol=1e-2, atol=1e-2)
    assert torch.allclose(model.collapse()(images).logits, expected, atol=1e-5)


def test_compiled_merges_compute_the_same(model, images):
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        assert torch.allclose(compiled(images).logits, model(images).logits, atol=1e-5)
    compiled(images, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    found = model.merge.source_bias.grad.clone()
    model.merge.source_bias.grad = None
    model(images, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    assert torch.allclose(model.merge.source_bias.grad, found, atol=1e-6)


def test_one_source_is_refused(sources):
    with pytest.raises(TooFewSourcesError, match="at least one other"):
        MedMergeModel.from_sources(sources[:1], num_labels=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "no labels"),
        ({"num_labels": 0}, "no labels"),
        ({"num_labels": 3, "id2label": {0: "a"}}, "names 1 classes"),
        ({"num_labels": 2, "granularity": "channel"}, "not one of model, layer, filter"),
        ({"num_labels": 2, "constraint": "simplex"}, "not one of complementary, convex"),
        ({"num_labels": 2, "init": 1.5}, "between 0"),
    ],
)
def test_settings_are_checked(sources, settings, message):
    with pytest.raises(SettingsError, match=message):
        MedMergeModel.from_sources(sources, **settings)


def test_an_anchor_of_unknown_architecture_asks_for_it(sources):
    anonymous = torch.nn.Sequential(sources[0])
    with pytest.raises(SettingsError, match="architecture='resnet18'"):
        MedMergeModel.from_sources([anonymous, sources[1]], num_labels=2)


def test_config_survives_a_round_trip(tmp_path, model):
    model.config.to_json_file(tmp_path / "config.json")
    again = MedMergeConfig.from_json_file(tmp_path / "config.json")
    assert again.sources == model.config.sources
    assert (again.granularity, again.id2label) == ("filter", {0: "a", 1: "b", 2: "c"})


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
