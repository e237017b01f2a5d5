from collections import OrderedDict

import pytest
import torch
from conftest import network

from medmerge_hf import MedMergeModel, init_by_fisher, init_by_regression
from medmerge_hf.errors import SettingsError, StateError
from medmerge_hf.estimates import DRAWS, _information, solve_kernel_weights


def test_the_weights_minimise_regmeans_objective():
    torch.manual_seed(0)
    sources = [torch.randn(4, 5) for _ in range(3)]
    inputs = [torch.randn(200, 5) @ torch.randn(5, 5) for _ in range(3)]
    differences = [source - sources[0] for source in sources[1:]]
    outputs = [torch.stack([x @ d.T for d in differences]) for x in inputs]
    products = torch.stack([torch.einsum("inc,jnc->ijc", o, o) / 200 for o in outputs])
    powers = torch.stack([(x @ s.T).square().mean(0) for x, s in zip(inputs, sources, strict=True)])

    def objective(weights):
        merged = sources[0] + sum(w[:, None] * d for w, d in zip(weights, differences, strict=True))
        parts = [((x @ (merged - s).T).square().mean(0) / p) for x, s, p in zip(inputs, sources, powers, strict=True)]
        return torch.stack(parts).sum(0)

    best = solve_kernel_weights(products, powers, ridge=0.0)
    for _ in range(20):
        assert (objective(best) <= objective(best + 0.05 * torch.randn_like(best)) + 1e-6).all()


def test_every_layer_but_the_norms_gets_an_estimate():
    model = MedMergeModel.from_sources([network(seed) for seed in range(3)], num_labels=2, image_size=32)
    init_by_regression(model, [{"pixel_values": torch.rand(4, 3, 32, 32), "labels": torch.zeros(4)}])
    weights = model.merge.split(model.merge.source_bias)
    assert all((weights[name] == 0).all() for name in weights if "bn" in name)
    convolutions = [name for name in weights if "conv" in name and weights[name].ndim == 5]
    assert all((weights[name] != 0).any() for name in convolutions)
    assert all(0.1 < float(weights[name].mean()) < 0.6 for name in convolutions)
    assert torch.isfinite(model(torch.rand(2, 3, 32, 32)).logits).all()


def test_a_source_that_alone_responds_is_taken_whole():
    products = torch.stack([torch.zeros(1, 1, 3), torch.ones(1, 1, 3)])
    assert torch.allclose(solve_kernel_weights(products, torch.ones(2, 3)), torch.ones(1, 3), atol=1e-2)


def test_what_cannot_be_estimated_is_refused(model):
    with pytest.raises(SettingsError, match="images of the target"):
        init_by_regression(model, [])
    with pytest.raises(StateError):
        init_by_regression(model.collapse(), [torch.rand(1, 3, 32, 32)])
    layered = MedMergeModel.from_sources([network(0), network(1)], num_labels=2, granularity="layer")
    with pytest.raises(SettingsError, match="an output filter"):
        init_by_regression(layered, [torch.rand(1, 3, 32, 32)])


@pytest.mark.parametrize("granularity", ["model", "layer", "filter", "element"])
def test_a_source_whose_features_depend_on_a_kernel_gets_it(granularity):
    anchor, other = network(0), network(1)
    with torch.no_grad():
        for source in (anchor, other):
            source.layer3[0].bn3.weight.fill_(1.0)
        other.layer3[0].conv2.weight.zero_()  # nothing depends on what this layer is given
    model = MedMergeModel.from_sources([anchor, other], num_labels=2, image_size=32, granularity=granularity)
    init_by_fisher(model, [torch.rand(8, 3, 32, 32)])
    weights = model.merge.split(model.merge.source_bias)
    assert all(float(part.min()) >= 0 and float(part.max()) <= 1 for part in weights.values())
    if granularity != "model":
        # Where neither source depends on a kernel both have the same share.
        assert float(weights["layer3.0.conv1.weight"].min()) == 0
        assert float(weights["layer3.0.conv1.weight"].mean()) < 0.3
        assert 0 < float(weights["layer3.0.conv2.weight"].mean()) < 1


def test_fisher_information_is_that_of_the_gradients():
    torch.manual_seed(0)
    backbone = torch.nn.Linear(2, 3, bias=False)
    layer = torch.nn.Sequential(OrderedDict(backbone=backbone, head=torch.nn.Linear(3, 1)))
    layer.base_model_prefix = "backbone"
    images = torch.randn(64, 2)
    found = _information(layer, ["weight"], [images] * 20)["weight"]
    expected = images.square().sum(0) / backbone(images).detach().var() * DRAWS * 20
    assert torch.allclose(found, expected.expand(3, 2), rtol=0.5)
