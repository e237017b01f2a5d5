import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import network
from torch import nn
from torch.nn import functional
from transformers import TrainerCallback, TrainingArguments

from medmerge_hf import MedMergeTrainer, MedMergeTrainingArguments
from medmerge_hf.errors import SettingsError
from medmerge_hf.networks.preprocessing import resolve_preprocessing
from medmerge_hf.training.distillation import DistillationLoss, Lesson, MixedImages, Teachers, WithUnlabelled
from medmerge_hf.training.losses import IGNORED, TaskLoss
from medmerge_hf.training.single_source import single_source_model


NAMES = {0: "a", 1: "b", 2: "c"}


def student(seed=0, names=NAMES, **config):
    made = network(seed)
    made.pretrained_cfg.update(config)
    return single_source_model(made, id2label=names, image_size=32)


def labelled(count=8, several=False):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(count, 3, 32, 32, generator=generator)
    labels = [torch.eye(3)[i % 3] if several else i % 3 for i in range(count)]
    return [{"pixel_values": image, "labels": label} for image, label in zip(pixels, labels, strict=True)]


def unlabelled(count=20):
    generator = torch.Generator().manual_seed(1)
    return [{"pixel_values": image} for image in torch.rand(count, 3, 32, 32, generator=generator)]


def trainer_for(folder, model=None, kind=MedMergeTrainingArguments, teachers=None, images=True, **more):
    values = {"max_steps": 4, "per_device_train_batch_size": 4, "use_cpu": True, "disable_tqdm": True, "seed": 0}
    values |= {"save_strategy": "no", "report_to": "none", "dataloader_pin_memory": False, "learning_rate": 1e-3}
    return MedMergeTrainer(
        model=model or student(),
        args=kind(output_dir=str(folder), **(values | more)),
        train_dataset=labelled(),
        teachers=teachers or [student(1), student(2)],
        unlabelled_dataset=unlabelled() if images else None,
    )


def test_the_mean_of_teachers_is_weighted():
    logits = [torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 2.0]])]
    found = Teachers([Constant(one) for one in logits], weights=[3, 1])(torch.zeros(1, 3, 8, 8), temperature=2.0)
    first, second = ((one / 2).softmax(1) for one in logits)
    torch.testing.assert_close(found, 0.75 * first + 0.25 * second)


class Constant(nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, pixels):
        return self.logits.expand(len(pixels), -1)


@pytest.mark.parametrize("weights", [[1], [0, 0], [1, -1]])
def test_weights_that_fit_no_mean_are_refused(weights):
    with pytest.raises(SettingsError, match="teachers with weights"):
        Teachers([nn.Flatten(), nn.Flatten()], weights)


def test_a_teacher_sees_the_images_as_it_normalises_them():
    ours, theirs = student(), student(1, mean=(0.1, 0.2, 0.3), std=(0.9, 0.8, 0.7))
    image = torch.rand(2, 3, 32, 32)
    seen = [normalised(image, resolve_preprocessing(model)) for model in (ours, theirs)]
    assert not torch.allclose(*seen)
    found = Teachers([theirs]).fit_to(ours)(seen[0])
    torch.testing.assert_close(found, theirs(seen[1]).logits.softmax(1), atol=1e-5, rtol=1e-4)


def normalised(image, preprocessing):
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    return (image - mean) / std


def test_other_classes_are_refused_and_named():
    other = student(1, names={0: "a", 1: "c", 2: "b"})
    with pytest.raises(
        SettingsError, match=r"teachers\[0\] predicts \['a', 'c', 'b'\], the student \['a', 'b', 'c'\]"
    ):
        Teachers([other]).fit_to(student())


def test_a_student_is_not_its_own_teacher(tmp_path):
    model = student()
    with pytest.raises(SettingsError, match="the student itself"):
        trainer_for(tmp_path, model, teachers=[model])


def test_another_image_size_is_refused():
    torch.manual_seed(0)
    other = single_source_model(network(1), id2label=NAMES, image_size=48)
    with pytest.raises(SettingsError, match="48 x 48 pixels"):
        Teachers([other]).fit_to(student())


def test_images_without_labels_need_teachers(tmp_path):
    with pytest.raises(SettingsError, match="without teachers"):
        MedMergeTrainer(model=student(), train_dataset=labelled(), unlabelled_dataset=unlabelled())


@given(st.integers(1, 6), st.integers(1, 2), st.booleans(), st.floats(0, 1), st.floats(0.5, 4), st.data())
def test_the_loss_of_a_step_is_the_sum_of_its_parts(images, copies, several, weight, temperature, data):
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    logits = torch.randn(images * copies, 3)
    labels = torch.randint(2, (images, 3)).float() if several else torch.randint(3, (images,))
    taught = torch.rand(images * copies, 3) if several else torch.rand(images * copies, 3).softmax(1)
    loss, items = DistillationLoss(TaskLoss(), weight, temperature), labels.numel()
    cut = data.draw(st.integers(1, images))
    parts = [slice(0, cut)] + ([slice(cut, images)] if cut < images else [])

    def part(values, rows):
        return torch.cat([chunk[rows] for chunk in values.chunk(copies)])

    whole = loss({"logits": logits}, Lesson(labels, taught), items)
    each = [loss({"logits": part(logits, r)}, Lesson(labels[r], part(taught, r)), items) for r in parts]
    torch.testing.assert_close(sum(each), whole)


def test_the_divergence_is_that_of_the_tempered_probabilities():
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1])
    taught = torch.randn(4, 3).softmax(1)
    found = DistillationLoss(TaskLoss(), 0.75, 2.0)({"logits": logits}, Lesson(labels, taught))
    divergence = functional.kl_div((logits / 2).log_softmax(1), taught, reduction="batchmean") * 4
    torch.testing.assert_close(found, 0.25 * functional.cross_entropy(logits[:2], labels) + 0.75 * divergence)


def test_repeated_images_that_fill_a_batch_up_count_in_no_part_of_the_loss():
    logits, taught = torch.randn(4, 3), torch.randn(4, 3).softmax(1)
    loss = DistillationLoss(TaskLoss(), 0.5)
    found = loss({"logits": logits}, Lesson(torch.tensor([0, IGNORED]), taught))
    own = loss({"logits": logits[::2]}, Lesson(torch.tensor([0]), taught[::2]))
    torch.testing.assert_close(found, own)


def test_a_step_sees_as_many_images_without_labels(tmp_path):
    model, seen = student(), []
    model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(len(kwargs["pixel_values"])), with_kwargs=True)
    trainer_for(tmp_path, model, kind=TrainingArguments).train()
    assert seen == [8] * 4


def test_half_precision_teaches_in_whole_probabilities(tmp_path):
    teachers, seen = Teachers([student(1)]), []
    teachers.register_forward_hook(lambda _, images, found: seen.append(found))
    trainer_for(tmp_path, teachers=teachers, bf16=True).train()
    assert {found.dtype for found in seen} == {torch.float32}
    assert all(torch.allclose(found.sum(1), torch.ones(8)) for found in seen)


def test_teachers_stay_as_they_are(tmp_path):
    teacher = student(1)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    trainer_for(tmp_path, teachers=[teacher]).train()
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_a_student_says_what_its_teachers_say_and_the_card_how_it_learned(tmp_path):
    model, teacher = student(), Constant(torch.tensor([[-2.0, 0.0, 2.0]]))
    options = {"max_steps": 60, "learning_rate": 1e-2, "distillation_weight": 1.0}
    trainer_for(tmp_path, model, teachers=[teacher], **options).train()
    pixels = torch.stack([row["pixel_values"] for row in unlabelled()])
    found = model.eval()(pixels).logits.softmax(1)
    torch.testing.assert_close(found, teacher(pixels).softmax(1), atol=0.1, rtol=0)
    training = model.config.record["training"]["finetune"]
    assert (training["teachers"], training["unlabelled_images"], training["distillation_weight"]) == (1, 20, 1.0)


def test_an_evaluation_knows_no_teachers(tmp_path):
    with_teachers, model = trainer_for(tmp_path), student()
    alone = MedMergeTrainer(model=model, args=with_teachers.args)
    assert with_teachers.evaluate(labelled())["eval_loss"] == alone.evaluate(labelled())["eval_loss"]


def test_several_labels_are_taught_one_by_one(tmp_path):
    torch.manual_seed(0)
    kind = "multi_label_classification"
    made = [single_source_model(network(seed), id2label=NAMES, problem_type=kind) for seed in range(2)]
    trainer = trainer_for(tmp_path, made[0], teachers=made[1:])
    trainer.train_dataset = WithUnlabelled(labelled(several=True), unlabelled())
    assert trainer.train().training_loss > 0


def test_a_killed_distillation_ends_as_one_that_was_not(tmp_path):
    whole, half = student(), student()
    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 4, "distillation_temperature": 2.0}
    trainer_for(tmp_path / "whole", whole, **options).train()
    first = trainer_for(tmp_path / "half", half, **options)
    first.add_callback(StopAt(2))
    first.train()
    other = student(5)
    trainer_for(tmp_path / "half", other, **options).train(resume_from_checkpoint=True)
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in other.state_dict().items())


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


def test_mixed_images_lie_between_two():
    torch.manual_seed(0)
    images = [{"pixel_values": torch.full((1, 2, 2), float(value))} for value in (0, 1)]
    found = torch.stack([MixedImages(images)[0]["pixel_values"].mean() for _ in range(50)])
    assert ((found >= 0) & (found <= 1)).all()
    assert found.std() > 0.1
