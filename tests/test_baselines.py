import pytest
import torch
from conftest import network
from hypothesis import given
from hypothesis import strategies as st

from medmerge_hf import MedMergeModel
from medmerge_hf.baselines import (
    collapse_to,
    regmean_sources,
    regmean_weight,
    scramble_sources,
    slerp,
    slerp_sources,
)
from medmerge_hf.errors import SettingsError, StateError
from medmerge_hf.networks import backbone_state


@given(st.integers(0, 100), st.floats(0, 1))
def test_slerp_stays_on_the_sphere_and_begins_and_ends_at_its_tensors(seed, share):
    generator = torch.Generator().manual_seed(seed)
    one, other = (t / t.norm() for t in torch.randn(2, 3, 4, generator=generator))
    assert torch.allclose(slerp(one, other, 0.0), one, atol=1e-5)
    assert torch.allclose(slerp(one, other, 1.0), other, atol=1e-5)
    assert float(slerp(one, other, share).norm()) == pytest.approx(1.0, abs=1e-4)


def test_slerp_of_parallel_tensors_is_their_line():
    one = torch.ones(4)
    assert torch.allclose(slerp(one, 2 * one, 0.5), 1.5 * one)


def test_regmean_minimises_the_distance_of_outputs():
    torch.manual_seed(0)
    weights, inputs = torch.randn(3, 2, 5), [torch.randn(100, 5) @ torch.randn(5, 5) for _ in range(3)]
    grams = [x.T @ x / 100 for x in inputs]
    best = regmean_weight(list(weights), grams, shrink=1.0)

    def distance(weight):
        return sum((x @ (weight - w).T).square().mean() for x, w in zip(inputs, weights, strict=True))

    assert all(distance(best) <= distance(best + 0.01 * torch.randn_like(best)) for _ in range(20))


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])  # plain; grouped and depthwise
def test_regmean_of_equal_sources_is_the_source(name):
    source = network(0, name)
    other = network(0, name)
    with torch.no_grad():
        other.get_parameter(next(iter(dict(other.named_parameters())))).add_(0.1)
    model = MedMergeModel.from_sources([source, other], num_labels=2, image_size=32)
    found = regmean_sources(model, [torch.rand(8, 3, 32, 32)])
    own = backbone_state(model.network)
    for key, tensor in list(found.items())[4:]:
        assert float((tensor - own[key]).norm()) < 1e-2 * float(own[key].norm()) + 1e-4, key


def test_slerp_needs_two_sources():
    model = MedMergeModel.from_sources([network(seed) for seed in range(3)], num_labels=2, image_size=32)
    with pytest.raises(SettingsError, match="two sources"):
        slerp_sources(model)


def test_given_weights_take_the_place_of_the_learned_ones():
    model = MedMergeModel.from_sources([network(0), network(1)], num_labels=2, image_size=32)
    given = slerp_sources(model)
    before = {name: tensor.clone() for name, tensor in backbone_state(model.network).items()}
    model = collapse_to(model, given, [torch.rand(8, 3, 32, 32)])
    after = backbone_state(model.network)
    assert all(torch.equal(after[name], tensor) for name, tensor in given.items())
    assert not torch.equal(after["bn1.running_mean"], before["bn1.running_mean"])
    assert not model.merging


def test_noise_takes_the_place_of_the_sources_and_leaves_the_anchor():
    model = MedMergeModel.from_sources([network(0), network(1)], num_labels=2, image_size=32)
    images = torch.randn(2, 3, 32, 32)
    before = model(images).logits
    differences = {n: d.clone() for n, d in model.merge.differences.named_parameters()}
    scramble_sources(model, seed=1)
    assert torch.equal(model(images).logits, before)
    for name, noise in model.merge.differences.named_parameters():
        old, new = (tensor.reshape(len(noise), -1) for tensor in (differences[name], noise))
        assert torch.allclose(new.norm(dim=1), old.norm(dim=1), atol=1e-6)
        if old.shape[1] > 100:
            assert torch.nn.functional.cosine_similarity(new, old).abs().mean() < 0.2
    with pytest.raises(StateError, match="collapsed"):
        scramble_sources(model.collapse())
