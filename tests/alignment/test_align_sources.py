import copy
from functools import cache

import pytest
import timm
import torch
from tiny import unlike
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

from medmerge_hf import MedMergeModel
from medmerge_hf.alignment import permutations
from medmerge_hf.alignment.activation_matching import match_activations
from medmerge_hf.alignment.aten_rules import RULES
from medmerge_hf.alignment.channel_groups import ChannelGroups, reorder
from medmerge_hf.alignment.channel_trace import trace
from medmerge_hf.alignment.permutations import align, check_permutation, permute
from medmerge_hf.alignment.weight_matching import match_weights
from medmerge_hf.errors import AlignmentError, SettingsError, StateError
from medmerge_hf.networks.features import feature_difference


SWIN = {"embed_dim": 24, "depths": (2, 2), "num_heads": (3, 6), "window_size": 4, "img_size": 64}
VIT = {"embed_dim": 24, "depth": 2, "num_heads": 3, "img_size": 64}
FAMILIES = {
    "resnet": lambda: timm.create_model("test_resnet"),
    "bottlenecks": lambda: timm.create_model("resnet26", channels=(8, 16, 24, 32)),
    "grouped": lambda: timm.create_model("resnext26ts", width_factor=0.5),
    "densenet": lambda: timm.create_model("densenet121", growth_rate=8, block_config=(2, 2, 2, 2)),
    "mobilenet": lambda: timm.create_model("mobilenetv2_050"),
    "mobilenetv3": lambda: timm.create_model("mobilenetv3_small_050"),
    "efficientnet": lambda: timm.create_model("test_efficientnet"),
    "convnext": lambda: timm.create_model("test_convnext"),
    "vgg": lambda: timm.create_model("test_byobnet"),
    "vit": lambda: timm.create_model("vit_tiny_patch16_224", **VIT),
    "swin": lambda: timm.create_model("swin_tiny_patch4_window7_224", **SWIN),
    "standardised weights": lambda: timm.create_model("resnetv2_50", layers=(1, 1), channels=(32, 64), stem_chs=32),
    "transformers resnet": lambda: ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[16, 24], depths=[1, 2])
    ),
    "transformers vit": lambda: ViTForImageClassification(
        ViTConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=48, image_size=64)
    ),
}


@cache
def traced(family):
    network = unlike(FAMILIES[family]())
    images = torch.randn(24, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return network, images, trace(network, images)


def parts(family):
    """A network, images, its trace and its tensors, which a test may change."""
    network, images, found = copy.deepcopy(traced(family))
    return network, images, found, dict(network.state_dict())


def shuffled(found, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {g: torch.randperm(found.groups.sizes[g], generator=generator) for g in found.free()}


def test_channels_that_never_respond_stay_where_they_are():
    _, images, found, tensors = parts("resnet")
    with torch.no_grad():
        for name in ("bn1.weight", "bn1.bias"):
            tensors[name][::2] = 0.0
    back = match_activations(tensors, tensors, found, [images])
    assert all(torch.equal(order, torch.arange(len(order))) for order in back.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_permutation_preserves_the_function_and_is_found_back(family):
    network, images, found, tensors = parts(family)
    order = shuffled(found)
    assert len(order) > 3
    assert check_permutation(network, tensors, found, order, images[:2]) < 1e-8
    copy = permute(tensors, found, order)
    assert any(not torch.equal(copy[name], tensors[name]) for name in copy)
    parameters = [name for name, _ in network.named_parameters()]
    back = match_weights({n: tensors[n] for n in parameters}, {n: copy[n] for n in parameters}, found)
    again = permute(copy, found, back)
    assert all(torch.equal(again[name], tensors[name]) for name in parameters)


@pytest.mark.parametrize("family", ["resnet", "densenet", "vit", "convnext", "transformers vit"])
def test_activations_find_a_permutation_back(family):
    network, images, found, tensors = parts(family)
    copy = permute(tensors, found, shuffled(found))
    again = permute(copy, found, match_activations(tensors, copy, found, [images]))
    assert all(torch.equal(again[name], tensors[name]) for name, _ in network.named_parameters())


@pytest.mark.parametrize("method", ["weights", "activations"])
def test_halfway_to_a_permuted_copy_is_the_source_itself(method):
    network, images, found, tensors = parts("resnet")
    copy = unlike(FAMILIES["resnet"]())
    copy.load_state_dict(permute(tensors, found, shuffled(found)))
    model = MedMergeModel.from_sources(
        [network, copy], num_labels=2, init=0.5, image_size=64, align=method, align_images=images
    )
    assert feature_difference(network, model.plain_model().eval(), images) < 1e-4
    apart = MedMergeModel.from_sources([network, copy], num_labels=2, init=0.5, image_size=64)
    assert feature_difference(network, apart.plain_model().eval(), images) > 1e-2


def test_an_aligned_merge_is_saved_loaded_and_merged_again(tmp_path):
    networks = [unlike(FAMILIES["resnet"](), seed) for seed in range(3)]
    for seed, network in enumerate(networks):
        timm.models.save_for_hf(network, tmp_path / str(seed), safe_serialization=True)
    sources = [str(tmp_path / str(seed)) for seed in range(3)]
    model = MedMergeModel.from_sources(sources, num_labels=2, init=0.3, image_size=64)
    model.align("weights")
    images = torch.randn(2, 3, 64, 64)
    logits = model(images).logits
    model.save_pretrained(tmp_path / "out")
    again = MedMergeModel.from_pretrained(tmp_path / "out", merging=True)
    assert torch.allclose(again(images).logits, logits, atol=1e-5)
    assert again.config.align == {"method": "weights"}
    model.save_pretrained(tmp_path / "checkpoint", collapse=False)
    assert torch.allclose(MedMergeModel.from_pretrained(tmp_path / "checkpoint")(images).logits, logits, atol=1e-5)
    collapsed = MedMergeModel.from_pretrained(tmp_path / "out")
    assert torch.allclose(collapsed(images).logits, logits, atol=1e-5)


def test_an_export_that_says_whether_sources_were_aligned_jointly_still_loads(sources, images, tmp_path):
    model = MedMergeModel.from_sources(sources, num_labels=3, init=0.3, align="weights")
    model.config.align["jointly"] = True  # as version 0.1.0 wrote it
    model.save_pretrained(tmp_path)
    again = MedMergeModel.from_pretrained(tmp_path, merging=True, sources=sources)
    assert torch.allclose(again(images).logits, model(images).logits, atol=1e-5)


def test_statistics_move_with_their_channels():
    network, _, found, tensors = parts("resnet")
    copy = unlike(FAMILIES["resnet"]())
    copy.load_state_dict(permute(tensors, found, shuffled(found)))
    model = MedMergeModel.from_sources([network, copy], num_labels=2, image_size=64, align="weights")
    (statistics,) = model.merged_network.statistics
    assert all(torch.equal(own, tensors[name]) for name, own in statistics.items())


def test_settings_that_cannot_be_are_refused(model):
    with pytest.raises(SettingsError, match="weights, activations"):
        model.align("features")
    with pytest.raises(SettingsError, match="images of the target"):
        model.align("activations")
    model.align("weights")
    with pytest.raises(StateError, match="aligned already"):
        model.align("weights")
    with pytest.raises(StateError, match="collapsed"):
        model.collapse().align("weights")


def test_a_network_that_cannot_be_traced_is_refused():
    class Branching(nn.Module):
        def forward(self, images):
            return images if images.sum() > 0 else -images

    with pytest.raises(AlignmentError, match=r"Branching cannot be traced.*align=None"):
        trace(Branching(), torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("raised", [ValueError("zip() argument 2 is shorter"), IndexError("list index")])
def test_a_rule_or_a_network_that_fails_is_refused_by_name(model, monkeypatch, raised):
    def fails(*_):
        raise raised

    with monkeypatch.context() as patched:
        patched.setitem(RULES, "conv2d", fails)
        with pytest.raises(AlignmentError, match=r"channels of .* cannot be followed.*align=None"):
            model.align("weights")
    monkeypatch.setattr(permutations, "match_weights", fails)
    with pytest.raises(AlignmentError, match=r"cannot be aligned.*align=None"):
        model.align("weights")


def test_a_wrong_trace_is_noticed():
    network, images, found, tensors = parts("resnet")
    order = shuffled(found)
    found.axes["bn1.running_mean"] = [None]
    with pytest.raises(AlignmentError, match="would compute other logits"):
        check_permutation(network, tensors, found, order, images[:2])


def test_a_permutation_that_is_a_little_wrong_is_noticed():
    network = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.Flatten(), nn.Linear(64, 2))
    images, tensors = torch.randn(2, 3, 4, 4), network.state_dict()
    with torch.no_grad():  # two channels that are nearly the same: mixing them up costs little
        for name in ("0.weight", "0.bias"):
            tensors[name][1] = tensors[name][0] * (1 + 1e-5)
    found = trace(network, images)
    order = {found.axes["0.weight"][0][0][0]: torch.tensor([1, 0, 2, 3, 4, 5])}
    assert check_permutation(network, tensors, found, order, images) < 1e-12
    found.axes["2.weight"] = [found.axes["2.weight"][0], None, None, None]
    with pytest.raises(AlignmentError, match="other logits"):
        check_permutation(network, tensors, found, order, images)


def test_a_head_of_convolutions_is_carried_along():
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = torch.randn(2, 3, 8, 8)
    found = trace(network, images)
    body = {name: tensor for name, tensor in network.state_dict().items() if name.startswith("0.")}
    assert check_permutation(network, body, found, shuffled(found), images) < 1e-12


def test_a_network_without_free_channels_is_refused_by_name(model):
    class Fixed(nn.Sequential):
        base_model_prefix = "body"

        def forward(self, images):
            return self[1](torch.cumsum(self[0](images), dim=1).mean((2, 3)))

    network = Fixed(nn.Conv2d(3, 6, 1), nn.Linear(6, 2))
    images = torch.randn(2, 3, 4, 4)
    with pytest.raises(AlignmentError, match=r"No channels of Fixed"):
        align(network, trace(network, images), [{}, {}], "weights", [images])


class Twice(nn.Module):
    """A group beside itself, and a sum that joins it with another."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 8, 1)
        self.head = nn.Linear(8, 2)

    def forward(self, images):
        once = self.one(images)
        return self.head((torch.cat([once, once], 1) + self.two(images)).mean((2, 3)))


class Windows(nn.Module):
    """Channels that pass through the batch axis of a convolution."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(1, 2, 3), nn.Linear(8, 2)

    def forward(self, images):
        hidden = self.one(images)
        count, channels, *size = hidden.shape
        apart = self.two(hidden.reshape(count * channels, 1, *size)).mean((2, 3))
        return self.head(apart.reshape(count, channels * 2))


class Masked(nn.Module):
    """Attention with a constant mask of its own for every head."""

    def __init__(self):
        super().__init__()
        self.qkv, self.head = nn.Linear(12, 36), nn.Linear(12, 2)
        self.stem = nn.Conv2d(3, 12, 4, 4)
        self.register_buffer("slope", torch.arange(3.0).reshape(1, 3, 1, 1) + 1)
        self.register_buffer("table", torch.randn(1, 4, 12), persistent=False)

    def forward(self, images):
        tokens = self.stem(images).flatten(2).transpose(1, 2) + self.table
        count, length, width = tokens.shape
        q, k, v = self.qkv(tokens).reshape(count, length, 3, 3, width // 3).permute(2, 0, 3, 1, 4).unbind(0)
        mask = torch.ones(1, 3, length, length) * torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1)
        seen = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.head(seen.transpose(1, 2).reshape(count, length, width).mean(1))


class Shared(nn.Module):
    """A layer that stands in two places."""

    def __init__(self):
        super().__init__()
        self.stem, self.one, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1), nn.Linear(6, 2)
        self.again = self.one

    def forward(self, images):
        hidden = self.stem(images)
        return self.head((hidden + self.again(torch.relu(self.one(hidden)))).mean((2, 3)))


class Clipped(nn.Module):
    """Root mean squares, bounds, a table that a product of other rank looks up, images made larger."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(3, 6, 2, 2), nn.RMSNorm(6), nn.Linear(6, 2)
        self.table, self.top = nn.Parameter(torch.randn(5, 6)), nn.Buffer(torch.tensor(2.0))

    def forward(self, images):
        hidden = nn.functional.interpolate(self.stem(images), scale_factor=2, mode="bilinear")
        tokens = self.norm(hidden.flatten(2).transpose(1, 2)).clamp(-self.top, self.top)
        places = nn.functional.one_hot(torch.arange(tokens.shape[1]) % 5, 5).to(tokens.dtype)
        return self.head((1 - (tokens + places @ self.table) ** 2).mean(1))


@pytest.mark.parametrize("kind", [Twice, Windows, Masked, Shared, Clipped])
def test_what_the_rules_leave_free_may_be_permuted(kind):
    torch.manual_seed(0)
    network, images = kind().eval(), torch.randn(2, 3, 8, 8)
    found = trace(network, images)
    assert bool(found.free()) == (kind is not Windows)
    for seed in range(3):
        assert check_permutation(network, network.state_dict(), found, shuffled(found, seed), images) < 1e-12


def test_a_channel_that_is_a_block_of_weights_is_found_when_they_are_shaped_again():
    groups = ChannelGroups()
    filters = groups.merge([groups.new(4), groups.new(3), groups.new(3)], [4, 3, 3])
    assert filters == [(0, 9)]
    assert groups.fixed == {1, 2}
    assert groups.split(filters, [4, 3, 3]) == [[(0, 1)], None, None]


def test_an_unknown_operation_fixes_its_channels_and_no_others():
    class Odd(nn.Sequential):
        def forward(self, images):
            hidden = torch.cumsum(self[0](images), dim=1)
            return self[3](self[2](self[1](hidden)).mean((2, 3)))

    network = Odd(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 8, 1), nn.ReLU(), nn.Linear(8, 2))
    found = trace(network, torch.zeros(2, 3, 4, 4))
    assert [found.groups.sizes[group] for group in found.free()] == [8]


def test_groups_meet_in_the_coarser_of_their_steps():
    groups = ChannelGroups()
    whole, heads = groups.new(12), groups.new(4)
    groups.unify(whole, [(heads[0][0], 3)])
    assert groups.resolve(whole) == [(heads[0][0], 3)]
    assert reorder(groups.resolve(whole), {heads[0][0]: torch.tensor([1, 0, 2, 3])}, groups.sizes).tolist()[:6] == [
        *(3, 4, 5),
        *(0, 1, 2),
    ]
    joined = groups.new(7)
    groups.unify(joined, [*groups.new(3), *groups.new(4)])
    assert [groups.sizes[group] for group, _ in groups.resolve(joined)] == [3, 4]
    groups.unify(joined, None)
    assert all(group in groups.fixed for group, _ in groups.resolve(joined))
