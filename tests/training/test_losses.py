import numpy as np
import pytest
import torch
from tiny import network

from medmerge_hf import MedMergeModel, MedMergeTrainer, MedMergeTrainingArguments
from medmerge_hf.evaluation.compute_metrics import make_compute_metrics
from medmerge_hf.evaluation.metrics import all_scores
from medmerge_hf.training.losses import BalancedLoss, balanced_weights


def test_classes_count_the_same_however_often_they_occur():
    labels = torch.tensor([0] * 9 + [1])
    weights = balanced_weights(labels, 2)
    assert float(weights[labels].sum()) == pytest.approx(10)
    logits = torch.zeros(10, 2)
    logits[:, 0] = 5.0
    assert float(BalancedLoss(weights)({"logits": logits}, labels)) == pytest.approx(2.5, abs=0.1)


def test_weights_reach_the_training(tmp_path):
    torch.manual_seed(0)
    data = [{"pixel_values": torch.rand(3, 32, 32), "labels": int(i == 0)} for i in range(8)]
    model = MedMergeModel.from_sources([network(0), network(1)], num_labels=2, image_size=32)
    args = MedMergeTrainingArguments(str(tmp_path), use_cpu=True, disable_tqdm=True, per_device_eval_batch_size=8)
    loss = BalancedLoss(balanced_weights([row["labels"] for row in data], 2))
    plain = MedMergeTrainer(model=model, args=args).evaluate(data)["eval_loss"]
    weighted = MedMergeTrainer(model=model, args=args, compute_loss_func=loss)
    images = torch.stack([row["pixel_values"] for row in data])
    with torch.no_grad():
        expected = loss(model.eval()(images), torch.tensor([row["labels"] for row in data]))
    assert weighted.evaluate(data)["eval_loss"] == pytest.approx(float(expected), rel=1e-4)
    assert plain != pytest.approx(float(expected), rel=1e-4)


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
