import pytest
import timm
import torch
from conftest import network
from test_dialects import unlike
from torch import nn

from medmerge_hf import MedMergeModel
from medmerge_hf.errors import SettingsError
from medmerge_hf.normalization import repair


def test_a_mended_layer_has_the_mean_and_spread_of_its_sources():
    torch.manual_seed(0)
    sources = [nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)) for _ in range(2)]
    merged = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    merged.load_state_dict(
        {k: (sources[0].state_dict()[k] + sources[1].state_dict()[k]) / 2 for k in merged.state_dict()}
    )
    images = torch.randn(64, 3, 8, 8)
    shares = {name: torch.full((2, channels), 0.5) for name, channels in (("0", 8), ("2", 4))}
    assert repair(merged, sources, shares, [images]) == ["0", "2"]
    expected = [source(images) for source in sources]
    found = merged(images)
    for statistic in (lambda t: t.mean((0, 2, 3)), lambda t: t.std((0, 2, 3), correction=0)):
        target = (statistic(expected[0]) + statistic(expected[1])) / 2
        assert torch.allclose(statistic(found), target, atol=1e-4)


def test_mending_the_anchor_itself_changes_nothing():
    model = MedMergeModel.from_sources(
        [network(0, "test_convnext"), network(1, "test_convnext")], num_labels=2, init=0.0
    )
    images = torch.rand(8, 3, 64, 64)
    before = model(images).logits
    model.collapse([{"pixel_values": images, "labels": torch.zeros(8)}], repair=True)
    assert torch.allclose(model(images).logits, before, atol=1e-4)


def test_a_half_and_half_merge_is_less_shrunk_once_mended():
    pair = [unlike(timm.create_model("test_convnext"), seed) for seed in range(2)]
    images = torch.randn(16, 3, 64, 64)
    plain = MedMergeModel.from_sources(pair, num_labels=2, init=0.5).collapse([images])
    mended = MedMergeModel.from_sources(pair, num_labels=2, init=0.5).collapse([images], repair=True)

    def hidden(model):
        kept = []
        block = model.network.timm_model.stages[0].blocks[0].mlp.fc1
        hook = block.register_forward_hook(lambda module, given, output: kept.append(output))
        model(images)
        hook.remove()
        return float(kept[0].std((0, 1, 2)).mean())

    ends = [MedMergeModel.from_sources([one, other], num_labels=2).collapse() for one, other in (pair, pair[::-1])]
    target = sum(hidden(end) for end in ends) / 2
    assert abs(hidden(mended) - target) < abs(hidden(plain) - target)


def test_what_cannot_be_mended_is_refused(model):
    with pytest.raises(SettingsError, match="without BatchNorm"):
        model.collapse([], repair=True)
    other = [network(seed, "test_convnext") for seed in range(2)]
    with pytest.raises(SettingsError, match="one weight an output channel"):
        MedMergeModel.from_sources(other, num_labels=2, granularity="element").collapse([], repair=True)
    with pytest.raises(SettingsError, match="needs batches"):
        MedMergeModel.from_sources(other, num_labels=2).collapse(repair=True)
