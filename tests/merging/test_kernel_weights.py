import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from medmerge_hf.errors import SettingsError
from medmerge_hf.merging.kernel_weights import (
    GRANULARITIES,
    KernelWeights,
    blend,
    constrain,
    initial_parameters,
    kernel_shape,
    reduce_to_kernels,
)


LAYERS = {
    "conv": (lambda: nn.Conv2d(4, 6, 3), (2, 4, 5, 5)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 5, 5)),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4, bias=False), (2, 4, 5, 5)),
    "linear": (lambda: nn.Linear(4, 3), (2, 4)),
    "batchnorm": (lambda: nn.BatchNorm2d(4), (2, 4, 5, 5)),
    "layernorm": (lambda: nn.LayerNorm(4), (2, 4)),
}
seeds = st.integers(0, 2**31)
granularities = st.sampled_from(GRANULARITIES)
shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


def tensors_of(module):
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


def random_module(make):
    module = make().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


@pytest.mark.parametrize("layer", LAYERS)
@given(seed=seeds, granularity=granularities, sources=st.integers(2, 4))
@settings(max_examples=15, deadline=None)
def test_forward_with_blended_tensors_equals_collapsed_module(layer, seed, granularity, sources):
    torch.manual_seed(seed)
    make, shape = LAYERS[layer]
    anchor, *others = [random_module(make) for _ in range(sources)]
    merge = KernelWeights({k: v.shape for k, v in tensors_of(anchor).items()}, sources, granularity)
    merge.set_sources(tensors_of(anchor), [tensors_of(other) for other in others])
    nn.init.normal_(merge.source_bias)
    x = torch.randn(shape)
    merged = merge(tensors_of(anchor))
    forward = torch.func.functional_call(anchor, merged, (x,))
    collapsed = make().eval()
    collapsed.load_state_dict(merged, strict=False)
    assert torch.equal(forward, collapsed(x))


@pytest.mark.parametrize("layer", LAYERS)
@given(seed=seeds, granularity=granularities)
@settings(max_examples=10, deadline=None)
def test_weight_0_is_the_anchor_bit_for_bit_and_weight_1_the_source(layer, seed, granularity):
    torch.manual_seed(seed)
    make, _ = LAYERS[layer]
    anchor, other = tensors_of(random_module(make)), tensors_of(random_module(make))
    merge = KernelWeights({k: v.shape for k, v in anchor.items()}, 2, granularity)
    merge.set_sources(anchor, [other])
    merge.reset(0)
    assert all(torch.equal(tensor, anchor[name]) for name, tensor in merge(anchor).items())
    merge.reset(1)
    assert all(torch.allclose(tensor, other[name], atol=1e-6) for name, tensor in merge(anchor).items())


@given(shape=shapes, granularity=granularities, sources=st.integers(1, 3), seed=seeds)
@settings(max_examples=60, deadline=None)
def test_gradient_is_that_of_the_formula(shape, granularity, sources, seed):
    torch.manual_seed(seed)
    anchor, differences = torch.randn(shape).double(), [torch.randn(shape).double() for _ in range(sources)]
    weight = torch.randn(sources, *kernel_shape(shape, granularity), dtype=torch.double, requires_grad=True)
    output = torch.randn(shape).double()
    (ours,) = torch.autograd.grad(blend(anchor, weight, differences), weight, output)
    formula = anchor + (weight * torch.stack(differences)).sum(0)
    (theirs,) = torch.autograd.grad(formula, weight, output)
    assert ours.shape == weight.shape
    assert torch.allclose(ours, theirs, atol=1e-10)


@given(shape=shapes, granularity=granularities)
def test_kernel_shape_broadcasts_to_the_tensor(shape, granularity):
    kernels = kernel_shape(shape, granularity)
    assert torch.broadcast_shapes(kernels, shape) == shape
    ones = torch.ones(shape)
    assert reduce_to_kernels((ones, ones), kernels).sum() == ones.numel()


def test_channels_last_tensors_blend_like_contiguous_ones():
    anchor, difference = torch.randn(4, 3, 3, 3), torch.randn(4, 3, 3, 3)
    weight = torch.randn(1, 4, 1, 1, 1, requires_grad=True)
    plain = blend(anchor, weight, [difference])
    last = blend(
        anchor.to(memory_format=torch.channels_last), weight, [difference.to(memory_format=torch.channels_last)]
    )
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(plain, last)
    gradients = [torch.autograd.grad(out.square().sum(), weight)[0] for out in (plain, last)]
    assert torch.allclose(*gradients, rtol=1e-5)


def test_weights_of_another_rank_are_refused_and_not_broadcast():
    square = torch.ones(3, 3)
    with pytest.raises(SettingsError, match=r"\[3, 1\].*\[3, 3\]"):
        blend(square, torch.ones(3, 1), [square])


def test_convex_weights_are_positive_and_leave_a_share_to_the_anchor():
    weights = constrain(torch.randn(3, 10) * 5, "convex")
    assert (weights > 0).all()
    assert (weights.sum(0) < 1).all()


@pytest.mark.parametrize(("sources", "init"), [(2, 0.5), (3, 0.2), (4, 0.25)])
def test_convex_start_gives_every_other_source_its_weight(sources, init):
    parameter = torch.tensor(initial_parameters(init, sources, "convex"))[:, None].expand(-1, 2)
    assert torch.allclose(constrain(parameter, "convex"), torch.tensor(init))


def test_convex_cannot_start_at_the_anchor():
    with pytest.raises(SettingsError, match=r"init=0\.5 for the average"):
        initial_parameters(0.0, 2, "convex")


def test_model_granularity_learns_one_number_a_source():
    merge = KernelWeights({"a": (3, 2), "b": (3,)}, 3, "model")
    assert merge.source_bias.shape == (2, 1)
    assert [w.shape for w in merge.split(merge.source_bias).values()] == [(2, 1, 1), (2, 1)]
