import pytest
import torch
from tiny import network

from medmerge_hf import MedMergeModel


def levit(seed):
    """Its branches begin at zero: varied, so that position biases matter."""
    made = network(seed, "levit_128s")
    for name, parameter in made.named_parameters():
        if "attention_biases" in name:
            parameter.data.normal_(0, 3)
        elif parameter.min() == parameter.max():
            parameter.data.uniform_(0.5, 1)
    return made


@pytest.fixture
def model():
    return MedMergeModel.from_sources([levit(0), levit(1)], num_labels=2, include=["*attention_biases"]).double()


IMAGES = torch.rand(1, 3, 224, 224, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def apart(one, other):
    return float((one - other).abs().max())


def weigh(model, weight):
    with torch.no_grad():
        model.merge.source_bias.fill_(weight)


@pytest.mark.parametrize("grad", [True, False])
def test_kernel_weights_reach_what_timm_keeps_in_eval_mode(model, grad):
    with torch.set_grad_enabled(grad):
        at_anchor = model(IMAGES).logits
        weigh(model, 0.5)
        merged = model(IMAGES).logits
        assert apart(merged, at_anchor) > 1e-6
        assert apart(model.plain_model().eval()(IMAGES).logits, merged) < 1e-12
        weigh(model, 0.0)
        assert torch.equal(model(IMAGES).logits, at_anchor)
        weigh(model, 0.5)
        assert apart(model.collapse()(IMAGES).logits, merged) < 1e-12


def test_loaded_tensors_reach_it_too(model):
    model.collapse()
    before, state = model(IMAGES).logits, {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, tensor in state.items():
        if "attention_biases" in name:
            tensor.zero_()
    model.load_state_dict(state)
    assert apart(model(IMAGES).logits, before) > 1e-6
