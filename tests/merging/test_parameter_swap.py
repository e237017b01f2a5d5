import pytest
import torch
from torch import nn

from medmerge_hf.merging.parameter_swap import ParameterSwap


def test_tensors_compute_in_the_place_of_parameters_and_get_the_gradient():
    layer = nn.Linear(2, 1)
    own, weight = layer.weight, torch.tensor([[1.0, 2.0]], requires_grad=True)
    with ParameterSwap(layer, {"w": layer.weight}).of({"w": weight * 2}):
        assert torch.equal(layer(torch.eye(2)) - layer.bias, torch.tensor([[2.0], [4.0]]))
        layer(torch.ones(1, 2)).sum().backward()
    assert layer.weight is own
    assert own.grad is None
    assert torch.equal(weight.grad, torch.full((1, 2), 2.0))


def test_a_parameter_that_stands_in_two_places_is_replaced_in_both():
    network = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    network[1].weight = network[0].weight
    with ParameterSwap(network, dict(network.named_parameters())).of(
        {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    ):
        assert not any(layer.weight.any() for layer in network)
    assert network[1].weight is network[0].weight
    assert network[0].weight.any()


def test_parameters_come_back_after_an_error_and_are_known_meanwhile():
    layer = nn.Linear(2, 2)
    own, substitution = layer.weight, ParameterSwap(layer, {"w": layer.weight})

    def fail():
        with substitution.of({"w": torch.zeros(2, 2)}):
            assert substitution.parameters() == {"w": own}
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert layer.weight is own
