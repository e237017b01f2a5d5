"""What transformers asks of every model, in either state, on a network of timm and one of transformers."""

import copy
import pickle

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model, init_empty_weights, load_checkpoint_and_dispatch
from safetensors.torch import load_file
from tiny import native_vit, network
from transformers import PoolFormerConfig, PoolFormerForImageClassification, TrainingArguments

from medmerge_hf import MedMergeConfig, MedMergeModel, MedMergeTrainer
from medmerge_hf.errors import CheckpointError, SourceError, StateError


LABELS = torch.tensor([0, 1, 2, 0])


@pytest.fixture(scope="module")
def merges():
    torch.manual_seed(0)
    made = {"timm": [network(seed) for seed in range(2)], "vit": [native_vit(seed) for seed in range(2)]}
    return {name: MedMergeModel.from_sources(two, num_labels=3, init=0.3) for name, two in made.items()}


@pytest.fixture(params=["timm merging", "timm collapsed", "vit merging", "vit collapsed"])
def any_model(merges, request):
    name, state = request.param.split()
    model = copy.deepcopy(merges[name])
    return model if state == "merging" else model.collapse()


def test_it_computes_the_same_twice_and_the_same_for_an_image_alone(any_model, images):
    with torch.no_grad():
        logits = any_model(images).logits
        assert torch.equal(any_model(images).logits, logits)
        assert torch.allclose(any_model(images[1:2]).logits, logits[1:2], atol=1e-6)


def test_copies_and_pickles_are_the_same_model(any_model, images):
    with torch.no_grad():
        logits = any_model(images).logits
        for again in (copy.deepcopy(any_model), pickle.loads(pickle.dumps(any_model))):
            assert again.merging == any_model.merging
            assert torch.equal(again(images).logits, logits)


def test_a_state_dict_goes_through_a_file_and_misses_nothing(any_model, images, tmp_path):
    torch.save(any_model.state_dict(), tmp_path / "state.pt")
    other = copy.deepcopy(any_model)
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    result = other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert torch.equal(other(images).logits, any_model(images).logits)
    state = any_model.state_dict()
    state.pop(next(name for name in state if name.endswith(("fc.weight", "classifier.weight"))))
    with pytest.raises(CheckpointError, match="weight"):
        other.load_state_dict(state, strict=False)


def test_every_output_and_hidden_state_has_a_gradient(any_model, images):
    any_model.train()
    output = any_model(images.clone().requires_grad_(), labels=LABELS, output_hidden_states=True)
    output.hidden_states[0].retain_grad()
    output.loss.backward()
    assert output.hidden_states[0].grad.abs().sum() > 0
    learned = {name for name, p in any_model.named_parameters() if p.requires_grad}
    without = {name for name in learned if any_model.get_parameter(name).grad is None}
    assert not without


def test_it_goes_to_the_meta_device_and_is_built_there(any_model, images):
    meta = copy.deepcopy(any_model).to("meta")
    assert meta(images.to("meta")).logits.shape == (4, 3)
    for built_in in (init_empty_weights, lambda: torch.device("meta")):
        with built_in():
            empty = MedMergeModel(any_model.config)
        assert {p.device.type for p in empty.parameters()} == {"meta"}
        assert [*empty.network.state_dict()] == [*any_model.network.state_dict()]


def test_tensors_without_values_are_not_saved_collapsed_or_merged(any_model, tmp_path):
    meta = copy.deepcopy(any_model).to("meta")
    calls = [lambda: meta.save_pretrained(tmp_path / "out"), lambda: meta.save_pretrained(tmp_path, collapse=False)]
    for call in [*calls, *([meta.collapse] if meta.merging else [])]:
        with pytest.raises(StateError, match="has no values: it is on the meta device"):
            call()
    assert list(tmp_path.iterdir()) == []
    with init_empty_weights(), pytest.raises(SourceError, match="has no values"):
        MedMergeModel.from_sources([native_vit(seed) for seed in range(2)], num_labels=3)


def test_halves_compute_nearly_the_same(any_model, images):
    expected = any_model(images).logits
    half = copy.deepcopy(any_model).half()
    assert {p.dtype for p in half.parameters()} == {torch.float16}
    found = half(images.half()).logits
    assert found.dtype == torch.float16
    assert torch.allclose(found.float(), expected, atol=0.02)


def test_accelerate_dispatches_it(any_model, images):
    expected = any_model(images).logits
    dispatch_model(any_model, {"": "cpu"})
    assert torch.equal(any_model(images).logits, expected)


def test_a_collapsed_network_is_offloaded_and_a_merge_says_that_it_cannot(merges, images, tmp_path):
    merge = copy.deepcopy(merges["vit"])
    expected = merge(images).logits
    for offload in (cpu_offload, lambda model, **options: disk_offload(model, tmp_path / "disk", **options)):
        model = copy.deepcopy(merge).collapse()
        offload(model, execution_device=torch.device("cpu"))
        assert torch.allclose(model(images).logits, expected, atol=1e-6)
    cpu_offload(merge, execution_device=torch.device("cpu"))
    with pytest.raises(StateError, match=r"not in memory.*collapse"):
        merge(images)


def test_an_empty_model_takes_a_checkpoint_of_fine_tuning(merges, images, tmp_path):
    model = copy.deepcopy(merges["vit"]).collapse()
    model.save_pretrained(tmp_path, collapse=False)
    with init_empty_weights():
        empty = MedMergeModel(MedMergeConfig.from_pretrained(tmp_path))
    loaded = load_checkpoint_and_dispatch(empty, str(tmp_path / "model.safetensors"), device_map={"": "cpu"}).eval()
    assert torch.equal(loaded(images).logits, model(images).logits)


def test_checkpoints_are_safetensors_without_what_the_sources_hold(any_model, tmp_path):
    any_model.save_pretrained(tmp_path, collapse=False)
    assert not [*tmp_path.glob("*.bin"), *tmp_path.glob("*.pt")]
    saved = load_file(tmp_path / "model.safetensors").keys()
    assert saved == any_model.state_dict().keys() - set(any_model._keys_to_ignore_on_save)
    assert bool(any_model._keys_to_ignore_on_save) == any_model.merging


def test_a_fresh_model_has_finite_weights_of_a_usual_size(any_model):
    torch.manual_seed(0)
    fresh = MedMergeModel(any_model.config)
    for name, parameter in fresh.named_parameters():
        assert torch.isfinite(parameter).all(), name
        assert parameter.abs().max() < 3, name


def test_checkpointing_is_what_the_network_supports(merges):
    assert all(model.supports_gradient_checkpointing for model in merges.values())
    config = PoolFormerConfig(depths=[1] * 4, hidden_sizes=[8] * 4, num_labels=3)
    without = MedMergeModel.from_sources([PoolFormerForImageClassification(config) for _ in range(2)], num_labels=3)
    assert not without.supports_gradient_checkpointing
    with pytest.raises(ValueError, match="does not support"):
        without.gradient_checkpointing_enable()
    without.gradient_checkpointing_disable()


def test_checkpointing_changes_no_gradient(any_model, images):
    gradients = []
    for enable in (False, True):
        model = copy.deepcopy(any_model).train()
        if enable:
            model.gradient_checkpointing_enable()
        model(images, labels=LABELS).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-4, atol=1e-6), name


def test_a_merge_counts_the_operations_of_its_network(any_model, images, tmp_path):
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    counted = [
        MedMergeTrainer(model, arguments).floating_point_ops({"pixel_values": images})
        for model in (any_model, any_model.plain_model())
    ]
    assert counted[0] == counted[1] > 0


def test_it_has_no_embeddings_of_tokens_and_nothing_tied(any_model):
    assert any_model.get_output_embeddings() is None
    assert any_model.all_tied_weights_keys == {}
    assert not any_model.can_generate()
    assert any_model.base_model is any_model.network
