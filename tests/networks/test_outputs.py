import copy

import pytest
import torch
from tiny import native_vit
from transformers import ConvNextConfig, ConvNextForImageClassification

from medmerge_hf import MedMergeModel
from medmerge_hf.errors import SettingsError


@pytest.fixture
def vit():
    return MedMergeModel.from_sources([native_vit(seed) for seed in range(2)], num_labels=3, init=0.3)


def test_hidden_states_and_tuples_are_given_to_a_call_that_wants_them(vit, images):
    for model in (vit, copy.deepcopy(vit).collapse()):
        output = model(images, labels=torch.zeros(4, dtype=torch.long), output_hidden_states=True)
        loss, logits, hidden = model(
            images, labels=torch.zeros(4, dtype=torch.long), output_hidden_states=True, return_dict=False
        )
        assert torch.equal(loss, output.loss)
        assert torch.equal(logits, output.logits)
        assert len(hidden) == len(output.hidden_states) == 3


def test_the_config_says_what_a_call_leaves_open(vit, model, images):
    for one, states in ((vit, 3), (model, 5)):
        one.config.output_hidden_states, one.config.return_dict = True, False
        logits, hidden = one(images)
        assert len(hidden) == states
        assert torch.equal(one(images, output_hidden_states=False, return_dict=True).logits, logits)
        assert one(images, return_dict=True, output_hidden_states=False).keys() == {"logits"}


def test_attentions_come_from_a_network_that_computes_them(vit, images):
    with pytest.raises(
        SettingsError, match=r"none with sdpa attention, call model\.set_attn_implementation\('eager'\)"
    ):
        vit(images, output_attentions=True)
    logits = vit(images).logits
    vit.set_attn_implementation("eager")
    output = vit(images, output_attentions=True)
    assert [tuple(one.shape) for one in output.attentions] == [(4, 2, 17, 17)] * 2
    assert torch.allclose(output.logits, logits, atol=1e-5)
    vit.config.output_attentions = True
    assert len(MedMergeModel(vit.config).eval()(images).attentions) == 2


def test_what_a_network_cannot_give_is_refused(model, images):
    with pytest.raises(SettingsError, match="timm's test_resnet returns no attentions"):
        model(images, output_attentions=True)
    with pytest.raises(SettingsError, match="test_resnet interpolates no position embeddings"):
        model(images, interpolate_pos_encoding=True)
    config = ConvNextConfig(hidden_sizes=[8, 8], depths=[1, 1], num_stages=2)
    native = MedMergeModel.from_sources([ConvNextForImageClassification(config) for _ in range(2)], num_labels=2)
    with pytest.raises(SettingsError, match="returns no attentions: leave output_attentions out"):
        native(images, output_attentions=True)
    with pytest.raises(TypeError, match="unexpected keyword"):
        native(images, anything=True)


def test_images_of_another_size_are_taken_where_the_network_can(vit):
    larger = torch.rand(1, 3, 48, 48)
    merged = vit(larger, interpolate_pos_encoding=True).logits
    assert torch.allclose(vit.collapse()(larger, interpolate_pos_encoding=True).logits, merged, atol=1e-6)


def test_the_network_judges_its_attention(vit, model):
    assert vit.config._attn_implementation == vit.network.config._attn_implementation == "sdpa"
    assert MedMergeModel(copy.deepcopy(vit.config)).network.config._attn_implementation == "sdpa"
    with pytest.raises(ValueError, match="Flash Attention"):
        model.set_attn_implementation("flash_attention_2")
