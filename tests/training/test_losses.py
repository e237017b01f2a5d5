import copy

import numpy as np
import pytest
import torch
from tiny import network
from torch.nn import functional
from transformers import Trainer, TrainerCallback, TrainingArguments, ViTConfig, ViTForImageClassification

from medmerge_hf import MedMergeModel, MedMergeTrainer, MedMergeTrainingArguments
from medmerge_hf.errors import DataError, SettingsError
from medmerge_hf.evaluation.compute_metrics import make_compute_metrics
from medmerge_hf.evaluation.metrics import all_scores
from medmerge_hf.training.losses import TaskLoss, balanced_weights


MULTI = "multi_label_classification"


def test_classes_count_the_same_however_often_they_occur():
    labels = torch.tensor([0] * 9 + [1])
    weights = balanced_weights(labels, 2)
    assert float(weights[labels].sum()) == pytest.approx(10)
    logits = torch.zeros(10, 2)
    logits[:, 0] = 5.0
    assert float(TaskLoss(weights)({"logits": logits}, labels)) == pytest.approx(2.5, abs=0.1)


def test_a_class_without_images_has_no_weight():
    with pytest.raises(DataError, match="class 1 of 3 has no training image"):
        balanced_weights([0, 2, 2], 3)


def test_a_label_of_all_or_no_images_keeps_its_weight():
    assert balanced_weights([[1, 0, 1], [1, 0, 0], [1, 0, 0]], 3).tolist() == [1.0, 1.0, 2.0]


def rows(multi=False, count=10):
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, 32, 32, generator=generator) for _ in range(count)]
    labels = [[float(i % 3 == 0), float(i % 2)] if multi else int(i % 3 == 0) for i in range(count)]
    return [{"pixel_values": image, "labels": label} for image, label in zip(images, labels, strict=True)]


class Watch(TrainerCallback):
    """Gradients before the first step."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if not hasattr(self, "gradients"):
            self.gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def train(model, folder, data, size, parts=1, kind=MedMergeTrainer, loss=None, **options):
    """The trainer after its steps, the loss of each, and the gradients before the first."""
    quiet = {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "report_to": "none", "logging_steps": 1}
    batches = {"per_device_train_batch_size": size, "gradient_accumulation_steps": parts}
    options = {"max_steps": 1, "max_grad_norm": 0, "optim": "sgd", "learning_rate": 0.1, **options}
    arguments = MedMergeTrainingArguments if kind is MedMergeTrainer else TrainingArguments
    args, watch = arguments(str(folder), **quiet, **batches, **options), Watch()
    trainer = kind(model=model, args=args, train_dataset=data, compute_loss_func=loss, callbacks=[watch])
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], watch.gradients


def convnext(multi=False, collapsed=False):
    torch.manual_seed(0)
    kind = MULTI if multi else None
    sources = [network(seed, "test_convnext") for seed in range(2)]
    model = MedMergeModel.from_sources(sources, num_labels=2, init=0.3, problem_type=kind, image_size=32)
    return model.collapse() if collapsed else model


CASES = {
    "plain": {},
    "weights": {"weights": True},
    "smoothing": {"label_smoothing_factor": 0.2},
    "weights and smoothing": {"weights": True, "label_smoothing_factor": 0.2},
    "penalty": {"kernel_l2": 0.5},
    "labels": {"multi": True},
    "labels and weights": {"multi": True, "weights": True},
}


def expected_loss(model, data, loss, smoothing=0.0):
    """Of all images at once, by torch."""
    images = torch.stack([row["pixel_values"] for row in data])
    labels, weights = torch.tensor([row["labels"] for row in data]), getattr(loss, "weights", None)
    with torch.no_grad():
        logits = model.train()(images).logits
    if labels.ndim == 2:
        return functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights)
    return functional.cross_entropy(logits, labels, weights, reduction="sum", label_smoothing=smoothing) / len(data)


@pytest.mark.parametrize("collapsed", [False, True], ids=["merge", "finetune"])
@pytest.mark.parametrize("case", CASES)
def test_uneven_parts_have_loss_and_gradient_of_one_big_batch(case, collapsed, tmp_path):
    options = dict(CASES[case])
    multi, weights = options.pop("multi", False), options.pop("weights", False)
    data = rows(multi)
    loss = TaskLoss(balanced_weights([row["labels"] for row in data], 2)) if weights else None
    whole, parts = (
        train(convnext(multi, collapsed), tmp_path, data, size, count, loss=loss, **options)
        for size, count in ((10, 1), (4, 3))
    )
    model = convnext(multi, collapsed)
    expected = expected_loss(model, data, loss, options.get("label_smoothing_factor", 0.0))
    if case == "penalty" and not collapsed:
        expected = expected + 0.5 * 0.3**2
    assert whole[0] == [pytest.approx(float(expected), rel=1e-5)]
    assert parts[0] == [pytest.approx(whole[0][0], abs=1e-6)]
    assert whole[1].keys() == parts[1].keys()
    for name, gradient in whole[1].items():
        assert torch.allclose(gradient, parts[1][name], rtol=1e-4, atol=1e-6), name


def test_steps_are_those_of_plain_trainer_where_that_is_right(tmp_path):
    config = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    sources = [ViTForImageClassification(ViTConfig(**config, image_size=32, patch_size=8)) for _ in range(2)]
    model = MedMergeModel.from_sources(sources, num_labels=2, init=0.5).collapse()
    plain = copy.deepcopy(model.plain_model())
    options = {"max_steps": 4, "label_smoothing_factor": 0.1}
    ours, theirs = (
        train(network, tmp_path, rows(), 4, 2, kind=kind, **options)[0]
        for network, kind in ((model, MedMergeTrainer), (plain, Trainer))
    )
    assert ours == pytest.approx(theirs, abs=1e-6)
    assert len(set(ours)) == 4
    for name, tensor in plain.state_dict().items():
        assert torch.allclose(tensor, model.network.state_dict()[name], atol=1e-6), name


def test_weights_reach_the_evaluation_whatever_its_batches(tmp_path):
    data, model = rows(), convnext()
    loss = TaskLoss(balanced_weights([row["labels"] for row in data], 2))
    args = MedMergeTrainingArguments(str(tmp_path), use_cpu=True, disable_tqdm=True, per_device_eval_batch_size=3)
    found = MedMergeTrainer(model=model, args=args, compute_loss_func=loss).evaluate(data)["eval_loss"]
    assert found == pytest.approx(float(expected_loss(model, data, loss)), rel=1e-5)


@pytest.mark.parametrize("problem", [MULTI, "regression"])
def test_smoothing_without_effect_is_refused(problem, tmp_path):
    model = MedMergeModel.from_sources([network(0), network(1)], num_labels=2, problem_type=problem)
    args = MedMergeTrainingArguments(str(tmp_path), use_cpu=True, label_smoothing_factor=0.1)
    with pytest.raises(SettingsError, match=r"label_smoothing_factor=0.1 .*Set it to 0"):
        MedMergeTrainer(model=model, args=args)


def test_smoothing_beside_a_loss_of_ones_own_is_refused(model, tmp_path):
    args = MedMergeTrainingArguments(str(tmp_path), use_cpu=True, label_smoothing_factor=0.1)
    with pytest.raises(SettingsError, match="label_smoothing_factor"):
        MedMergeTrainer(model=model, args=args, compute_loss_func=lambda outputs, labels, num_items_in_batch: 0)


@pytest.mark.parametrize(
    ("labels", "logits", "problem"),
    [
        (torch.tensor([0, 1]), torch.rand(2, 3), "single_label_classification"),
        (torch.tensor([[0.0, 1.0], [1.0, 1.0]]), torch.rand(2, 2), MULTI),
        (torch.tensor([0.5, 2.0]), torch.rand(2, 1), "regression"),
    ],
)
def test_the_kind_of_task_is_that_of_transformers(labels, logits, problem):
    from transformers.loss.loss_utils import ForSequenceClassificationLoss

    ours, theirs = ViTConfig(num_labels=logits.shape[1]), ViTConfig(num_labels=logits.shape[1])
    expected = ForSequenceClassificationLoss(labels, logits, theirs)
    assert float(TaskLoss(config=ours)({"logits": logits}, labels)) == pytest.approx(float(expected), rel=1e-6)
    assert ours.problem_type == theirs.problem_type == problem


def test_labels_that_do_not_count_do_not_count():
    logits, labels = torch.rand(3, 2), torch.tensor([1, -100, 0])
    assert torch.isclose(TaskLoss()((logits,), labels), TaskLoss()((logits[[0, 2]],), labels[[0, 2]]))
    truth = torch.tensor([[1.0, 0.0], [-100, -100], [0.0, 1.0]])
    assert torch.isclose(TaskLoss()((logits,), truth), TaskLoss()((logits[[0, 2]],), truth[[0, 2]]))


def test_a_batch_without_labels_is_refused(model, tmp_path):
    with pytest.raises(DataError, match="without 'labels'"):
        train(model, tmp_path, [{"pixel_values": torch.rand(3, 32, 32)} for _ in range(4)], 4)


def test_a_model_of_several_labels_trains_and_is_scored(tmp_path):
    torch.manual_seed(0)
    data = [{"pixel_values": torch.rand(3, 32, 32), "labels": [float(i % 2), float(i % 3 == 0)]} for i in range(12)]
    kind = "multi_label_classification"
    model = MedMergeModel.from_sources([network(0), network(1)], num_labels=2, image_size=32, problem_type=kind)
    args = MedMergeTrainingArguments(str(tmp_path), max_steps=2, use_cpu=True, disable_tqdm=True, save_strategy="no")
    trainer = MedMergeTrainer(
        model=model, args=args, train_dataset=data, compute_metrics=make_compute_metrics(2, multi_label=True)
    )
    trainer.train()
    found = trainer.evaluate(data)
    output = trainer.predict(data)
    scores = all_scores(1 / (1 + np.exp(-output.predictions)), output.label_ids)
    assert scores["macro_f1"] == pytest.approx(found["eval_macro_f1"])
    assert scores["auroc"] == pytest.approx(found["eval_auroc"])
    assert 0 <= scores["sensitivity"] <= 1


def test_several_labels_are_judged_one_by_one():
    truth = np.array([[1, 0], [1, 1], [0, 0], [0, 1]])
    compute = make_compute_metrics(2, multi_label=True)
    assert compute((np.where(truth, 2.0, -2.0), truth)) == {
        "macro_f1": 1.0,
        "balanced_accuracy": 1.0,
        "accuracy": 1.0,
        "auroc": 1.0,
    }
    half = np.where(truth, 2.0, -2.0)
    half[:, 1] = -2.0
    assert compute((half, truth))["macro_f1"] == pytest.approx(0.5)
