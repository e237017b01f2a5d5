"""Every way back to a model, tensor by tensor: on disk a transformers network may have other names than in memory."""

import itertools

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import network, unlike
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from medmerge_hf import MedMergeModel, MedMergeTrainer, MedMergeTrainingArguments
from medmerge_hf.errors import CheckpointError


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
NETWORKS = {
    "vit": lambda: ViTForImageClassification(ViTConfig(**SMALL, image_size=32, patch_size=8)),
    "resnet": lambda: ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1])),
}


def write_sources(kind, folder):
    if kind == "timm":
        files = [folder / f"{seed}.safetensors" for seed in range(2)]
        for seed, file in enumerate(files):
            save_file(network(seed).state_dict(), file)
        return {"sources": [str(file) for file in files], "architecture": "test_resnet", "image_size": 32}
    for seed in range(2):
        torch.manual_seed(seed)
        unlike(NETWORKS[kind](), seed).save_pretrained(folder / str(seed))
        ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / str(seed))
    return {"sources": [str(folder / "0"), str(folder / "1")]}


class Remember(TrainerCallback):
    """Every tensor at each checkpoint, and as training began."""

    def __init__(self):
        self.at, self.begin = {}, {}

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.begin = tensors(model)

    def on_save(self, args, state, control, model=None, **kwargs):
        self.at[state.global_step] = tensors(model)


def tensors(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same(found, expected, within=0.0):
    assert found.keys() == expected.keys()
    assert not [n for n, tensor in expected.items() if not torch.allclose(found[n], tensor, rtol=0, atol=within)]


def train(model, folder, resume=None, kind=MedMergeTrainer, best=False):
    """Four steps, a checkpoint at each; with `best` that of the second step comes back."""
    generator, falls = torch.Generator().manual_seed(0), itertools.count()
    data = [{"pixel_values": torch.rand(3, 32, 32, generator=generator), "labels": i % 2} for i in range(8)]
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1, "learning_rate": 1e-2, "seed": 0}
    if best:
        options |= {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True}
        options |= {"metric_for_best_model": "score", "greater_is_better": True}
    quiet = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "per_device_train_batch_size": 4}
    arguments = MedMergeTrainingArguments if kind is MedMergeTrainer else TrainingArguments
    remember = Remember()
    trainer = kind(
        model=model,
        args=arguments(str(folder), **options, **quiet),
        train_dataset=data,
        eval_dataset=data,
        compute_metrics=lambda _: {"score": -abs(next(falls) - 1)},
        callbacks=[remember],
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer, remember


@pytest.fixture(scope="module", params=["vit", "resnet", "timm"])
def run(request, tmp_path_factory):
    """Both stages of a merge whose biases stay the anchor's, which the small form therefore holds."""
    folder = tmp_path_factory.mktemp(request.param)
    sources = write_sources(request.param, folder)
    make = lambda: MedMergeModel.from_sources(**sources, num_labels=2, init=0.3, exclude=["*bias"])  # noqa: E731
    model = make()
    trainer, merge = train(model, folder / "merge")
    with torch.no_grad():
        trainer.collapse()
    _, finetune = train(model, folder / "finetune")
    model.save_pretrained(folder / "out")
    return {"folder": folder, "make": make, "merge": merge.at, "finetune": finetune.at, "model": model}


def test_a_resumed_merge_begins_and_ends_as_the_first(run):
    checkpoint = run["folder"] / "merge" / "checkpoint-2"
    _, again = train(run["make"](), run["folder"] / "again", resume=checkpoint)
    assert_same(again.begin, run["merge"][2])
    assert_same(again.at[4], run["merge"][4], within=1e-5)


def test_a_resumed_finetuning_begins_and_ends_as_the_first(run):
    checkpoint = run["folder"] / "finetune" / "checkpoint-2"
    started = MedMergeModel.from_pretrained(run["folder"] / "finetune" / "checkpoint-1")
    _, again = train(started, run["folder"] / "again-finetune", resume=checkpoint)
    assert_same(again.begin, run["finetune"][2])
    assert_same(again.at[4], run["finetune"][4], within=1e-5)


@pytest.mark.parametrize("kind", [MedMergeTrainer, Trainer])
def test_the_best_finetuned_model_comes_back_whole(run, kind, tmp_path):
    model = MedMergeModel.from_pretrained(run["folder"] / "out")
    _, seen = train(model, tmp_path, kind=kind, best=True)
    assert_same(tensors(model), seen.at[2])
    assert not torch.equal(seen.at[2]["network." + first(model)], seen.at[4]["network." + first(model)])


def first(model):
    return next(name for name, parameter in model.network.named_parameters() if parameter.requires_grad)


def test_the_best_merge_comes_back_whole(run, tmp_path):
    model = run["make"]()
    _, seen = train(model, tmp_path, best=True)
    assert_same(tensors(model), seen.at[2])


def test_from_pretrained_gives_every_tensor(run):
    assert_same(tensors(MedMergeModel.from_pretrained(run["folder"] / "out")), tensors(run["model"]))
    for step in (2, 4):
        merging = MedMergeModel.from_pretrained(run["folder"] / "merge" / f"checkpoint-{step}")
        assert_same(tensors(merging), run["merge"][step])
        finetuned = MedMergeModel.from_pretrained(run["folder"] / "finetune" / f"checkpoint-{step}")
        assert_same(tensors(finetuned), run["finetune"][step])


def test_the_merge_of_an_export_is_that_of_the_end_of_its_stage(run):
    found, expected = tensors(MedMergeModel.from_pretrained(run["folder"] / "out", merging=True)), run["merge"][4]
    statistics = [name for name, _ in run["model"].named_buffers()]  # estimated when it collapsed
    assert_same(*({n: t for n, t in state.items() if n not in statistics} for state in (found, expected)))


@pytest.mark.parametrize("stage", ["merge", "finetune"])
def test_a_checkpoint_with_other_names_is_refused(run, stage):
    model = run["make"]() if stage == "merge" else MedMergeModel.from_pretrained(run["folder"] / "out")
    state = load_file(run["folder"] / stage / "checkpoint-4" / "model.safetensors")
    name = next(name for name in state if name.endswith("bias"))
    before = tensors(model)
    with pytest.raises(CheckpointError, match="does not hold"):
        model.load_state_dict({key: tensor for key, tensor in state.items() if key != name}, strict=False)
    with pytest.raises(CheckpointError, match=r"holds, besides what is needed, .*other\.weight"):
        model.load_state_dict({**state, name.rpartition(".")[0] + ".other.weight": state[name]}, strict=False)
    if stage == "finetune":
        assert_same(tensors(model), before)
        with pytest.raises(CheckpointError, match="do not fit"):
            model.load_state_dict({**state, name: state[name][:-1]}, strict=False)


def test_a_plain_network_that_would_keep_its_last_encoder_is_refused(tmp_path):
    plain = NETWORKS["vit"]()
    with pytest.raises(CheckpointError, match=r"does not hold vit.*from_pretrained\(checkpoint\)"):
        train(plain, tmp_path, best=True)
    assert ViTForImageClassification.from_pretrained(tmp_path / "checkpoint-2")  # the way out
