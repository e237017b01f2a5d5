import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import softmax
from tiny import native_vit, network
from torch import nn
from transformers import TrainingArguments

from medmerge_hf import MedMergeModel, MedMergeTrainer, make_compute_metrics, match_class_shares, single_source_model
from medmerge_hf.errors import DataError, SettingsError, StateError
from medmerge_hf.export.card.model_card import render_card
from medmerge_hf.training.class_shares import class_shift


SHARES = [0.6, 0.3, 0.1]


@pytest.fixture
def unlabelled():
    return [{"pixel_values": image} for image in torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(1))]


def single(source):
    return single_source_model(source, id2label={0: "a", 1: "b", 2: "c"}, image_size=32)


def trainer_of(model, folder, data=None):
    options = {"max_steps": 1, "use_cpu": True, "disable_tqdm": True, "report_to": "none", "save_strategy": "no"}
    arguments = TrainingArguments(str(folder), **options)
    return MedMergeTrainer(model, arguments, train_dataset=data, compute_metrics=make_compute_metrics(3))


@given(
    arrays(float, st.tuples(st.integers(1, 30), st.just(3)), elements=st.floats(-20, 20)),
    st.lists(st.floats(0.02, 1), min_size=3, max_size=3),
)
def test_every_class_gets_its_share(logits, shares):
    wanted = np.asarray(shares) / sum(shares)
    shift = class_shift(logits, wanted)
    assert softmax(logits + shift, axis=1).mean(axis=0) == pytest.approx(wanted, abs=1e-4)
    assert shift.sum() == pytest.approx(0, abs=1e-6)


def test_shares_that_are_rounded_or_numbers_of_labels_have_a_last_shift():
    logits = 1e-5 * np.random.default_rng(0).normal(size=(4, 3))
    for shares in (np.full(3, 1 / 3, np.float32), np.array([8, 8, 8])):
        assert class_shift(logits, shares) == pytest.approx(np.zeros(3), abs=1e-4)


def test_a_share_of_nothing_and_no_images_are_refused():
    with pytest.raises(DataError, match="Class 1 of 2 has no label"):
        class_shift(np.zeros((3, 2)), np.array([1.0, 0.0]))
    with pytest.raises(DataError, match="no images"):
        class_shift(np.zeros((0, 2)), np.array([0.5, 0.5]))


@pytest.mark.parametrize("source", [lambda: network(0), lambda: native_vit(0)], ids=["timm", "transformers"])
def test_the_exported_network_says_each_class_as_often_as_the_labels(source, tmp_path, unlabelled):
    model = single(source())
    shift = match_class_shares(trainer_of(model, tmp_path), unlabelled, SHARES)
    assert shift.abs().max() > 0.01
    model.save_pretrained(tmp_path / "out")
    images = torch.stack([row["pixel_values"] for row in unlabelled])
    with torch.no_grad():
        plain = MedMergeModel.from_pretrained(tmp_path / "out").eval()(images).logits
    assert plain.softmax(1).mean(0).tolist() == pytest.approx(SHARES, abs=1e-4)


def test_the_card_says_what_was_added_and_training_again_takes_it_back(tmp_path, unlabelled):
    model = single(network(0))
    labelled = [{**row, "labels": index % 3} for index, row in enumerate(unlabelled)]
    trainer = trainer_of(model, tmp_path, labelled)
    trainer.train()
    trainer.record_results(labelled, "test", 10)
    match_class_shares(trainer, unlabelled, SHARES)
    trainer.record_results(labelled, "test", 10)
    assert [row["after"] for row in model.config.record["results"]] == ["fine-tuned", "shares matched"]
    card = render_card(model.config, "matched")
    assert "shares of the classes" in card
    assert "a +" in card or "a -" in card
    trainer.train()
    assert "match" not in model.config.record["training"]
    assert not model.config.record["results"]


def test_a_head_without_biases_is_refused_and_stays(tmp_path, unlabelled):
    model = single(network(0))
    head = model.network.timm_model.fc
    model.network.timm_model.fc = nn.Linear(head.in_features, 3, bias=False)
    with pytest.raises(SettingsError, match="do not follow biases of its head"):
        match_class_shares(trainer_of(model, tmp_path), unlabelled, SHARES)


def test_biases_that_the_logits_do_not_follow_are_put_back(tmp_path, unlabelled):
    model = single(network(0))
    model.network.timm_model.fc.register_forward_hook(lambda _, __, logits: logits / 2)
    before = model.network.timm_model.fc.bias.clone()
    with pytest.raises(SettingsError, match="cannot be matched"):
        match_class_shares(trainer_of(model, tmp_path), unlabelled, SHARES)
    torch.testing.assert_close(model.network.timm_model.fc.bias, before)


def test_a_merge_is_collapsed_first_and_labels_exclude_each_other(model, tmp_path, unlabelled):
    with pytest.raises(StateError, match="is merging"):
        match_class_shares(trainer_of(model, tmp_path), unlabelled, SHARES)
    several = single(timm.create_model("test_resnet"))
    several.config.problem_type = "multi_label_classification"
    with pytest.raises(SettingsError, match="multi_label_classification"):
        match_class_shares(trainer_of(several, tmp_path), unlabelled, SHARES)
