import dataclasses
import re

import datasets
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from tiny import network
from transformers import TrainingArguments, pipeline

from medmerge_hf import (
    MedMergeModel,
    MedMergeTrainer,
    MedMergeTrainingArguments,
    make_compute_metrics,
    single_source_model,
)
from medmerge_hf.data import Target
from medmerge_hf.errors import SettingsError
from medmerge_hf.export.card.model_card import render_card
from medmerge_hf.export.card.record import ALWAYS, chosen_settings, record_data, record_result


FIGURES = {"macro_f1": {"value": 0.5, "low": 0.4, "high": 0.6}, "auroc": {"value": float("nan"), "low": 0, "high": 1}}


def trainer(model, images, folder):
    data = [{"pixel_values": image, "labels": index % 3} for index, image in enumerate(images)]
    arguments = TrainingArguments(str(folder), max_steps=1, use_cpu=True, report_to="none", disable_tqdm=True)
    return MedMergeTrainer(
        model, arguments, train_dataset=data, eval_dataset=data, compute_metrics=make_compute_metrics(3)
    )


def test_a_card_of_a_merge_of_files_names_no_base_model_and_says_that_nothing_is_known(model):
    card = ModelCard(render_card(model.config, "me/merged"))
    assert card.data.base_model is None
    assert card.data.get("base_model_relation") is None
    assert (card.data.library_name, card.data.pipeline_tag, card.data.license) == (
        "timm",
        "image-classification",
        "unknown",
    )
    assert "model-index" not in card.data.to_dict()
    assert "Nothing was recorded" in card.text
    assert "states no licence" in card.text


def test_a_card_loads_the_network_from_where_it_lies(model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path / "merged")
    (code,) = re.findall(r"```python\n(import timm.*?)```", (tmp_path / "merged/README.md").read_text(), flags=re.S)
    monkeypatch.chdir(tmp_path)
    exec(code, scope := {})
    assert scope["model"](torch.zeros(1, 3, 32, 32)).shape == (1, model.config.num_labels)
    assert code.replace("local-dir:merged", "hf-hub:me/merged") in render_card(model.config, "me/merged")


def test_a_card_says_what_was_read_chosen_and_left_out_of_each_source(tmp_path):
    torch.save({"state_dict": network(0).state_dict(), "state_dict_ema": network(1).state_dict()}, tmp_path / "a.pth")
    sources = [{"id": str(tmp_path / "a.pth"), "entry": name} for name in ("state_dict", "state_dict_ema")]
    model = MedMergeModel.from_sources(sources, architecture="test_resnet", num_labels=2)
    lines = render_card(model.config, "me/merged").splitlines()
    for entry in ("state_dict", "state_dict_ema"):
        start = lines.index(f"- a.pth: read by `file`, `entry='{entry}'`")
        own = lines[start + 1 : start + 8]
        assert any(f"entry '{entry}' read" in line for line in own)
        assert "  - dropped fc.bias, fc.weight (not part of the backbone)" in own


def test_only_hub_ids_become_base_models(model):
    model.config.sources[1] |= {"id": "timm/resnet18.a1_in1k", "revision": "a" * 40, "license": "apache-2.0"}
    card = ModelCard(render_card(model.config, "merged"))
    assert (card.data.base_model, card.data.base_model_relation) == (["timm/resnet18.a1_in1k"], "merge")
    assert "a" * 12 in card.text


def test_results_become_a_model_index_without_nan_and_of_the_last_stage(model):
    record_result(model.config, "test", 20, {"macro_f1": {"value": 0.2, "low": 0.1, "high": 0.3}}, 50)
    model.config.record["training"] = {"finetune": {"seed": 0}}
    record_result(model.config, "test", 20, FIGURES, 50)
    card = ModelCard(render_card(model.config, "me/merged"))
    [result] = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_split) == ("f1", 0.5, "test")
    assert (result.metric_args["low"], result.metric_args["high"]) == (0.4, 0.6)
    assert "0.500 (0.400 - 0.600)" in card.text
    assert "0.200 (0.100 - 0.300)" in card.text
    assert "not trained alone" in card.text


def test_training_and_results_are_noted_by_the_trainer_and_survive_the_export(model, images, tmp_path):
    first = trainer(model, images, tmp_path)
    first.train()
    first.record_results(first.eval_dataset, resamples=50)
    assert [row["after"] for row in model.config.record["results"]] == ["merged"]
    first.collapse()
    second = trainer(model, images, tmp_path)
    second.train()
    figures = second.record_results(second.eval_dataset, "validation", resamples=50)
    again = MedMergeModel.from_pretrained(saved(model, tmp_path / "out")).config.record
    assert list(again["training"]) == ["finetune", "merge"]
    assert again["training"]["merge"]["steps_taken"] == 1
    assert [(row["after"], row["split"]) for row in again["results"]] == [
        ("merged", "test"),
        ("fine-tuned", "validation"),
    ]
    assert again["results"][1]["metrics"] == figures
    second.train()
    assert [row["after"] for row in model.config.record["results"]] == ["merged"]  # the later ones are no longer true


@dataclasses.dataclass
class Taught(MedMergeTrainingArguments):
    teachers: list[str] = dataclasses.field(default_factory=list)


def test_the_card_prints_every_argument_that_is_not_at_its_default_and_no_place(model, images, tmp_path):
    data = [{"pixel_values": image, "labels": index % 3} for index, image in enumerate(images)]
    own = {"kernel_l2": 2.5, "adam_beta2": 0.95, "remove_unused_columns": False, "save_total_limit": 0}
    quiet = {"output_dir": str(tmp_path), "max_steps": 1, "use_cpu": True, "disable_tqdm": True, "logging_steps": 7}
    places = {"teachers": [str(tmp_path / "teacher.safetensors")], "run_name": "mine"}
    arguments = Taught(**own, **quiet, **places)
    MedMergeTrainer(model, arguments, train_dataset=data).train()
    rows = dict(re.findall(r"^\| (\w+) +\| (.*?) +\|$", render_card(model.config, "merged"), flags=re.M))
    assert {name: rows[name] for name in own} == {name: str(value) for name, value in own.items()}
    assert rows["max_steps"] == "1"
    assert rows["kernel_learning_rate"] == "0.01"
    assert rows["teachers"] == "['teacher.safetensors']"
    assert not {"output_dir", "run_name", "logging_steps", "disable_tqdm", "bf16", "adam_beta1"} & rows.keys()


def test_defaults_are_not_on_the_card(tmp_path):
    plain = chosen_settings(TrainingArguments(str(tmp_path), use_cpu=True))
    assert plain.keys() == {*ALWAYS, "use_cpu", "dataloader_pin_memory"} - {"kernel_learning_rate"}
    steps = chosen_settings(TrainingArguments(str(tmp_path), use_cpu=True, max_steps=5))
    assert steps == {**{name: plain[name] for name in plain if name != "num_train_epochs"}, "max_steps": 5}


def saved(model, folder):
    model.save_pretrained(folder)
    return folder


def test_results_need_metrics(model, images, tmp_path):
    bare = trainer(model, images, tmp_path)
    bare.compute_metrics = None
    with pytest.raises(SettingsError, match="compute_metrics"):
        bare.record_results(bare.eval_dataset)


def test_the_data_table_keeps_the_order_of_splits_and_classes(model):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ill", "a|b"])})
    rows = datasets.Dataset.from_dict({"image": [Image.new("L", (4, 4))] * 3, "label": [0, 1, 1]}, features=features)
    target = Target({"validation": rows, "train": rows})
    target.name = "scans"
    record_data(model.config, target)
    text = render_card(model.config, "merged")
    assert text.index("| train ") < text.index("| validation ")
    assert "| ill | a\\|b | all |" in text


def test_a_source_trained_alone_has_a_card_too(tmp_path, images):
    torch.manual_seed(0)
    model = single_source_model(network(0), num_labels=3, image_size=32)
    folder = saved(model, tmp_path / "alone")
    assert "fine-tuned from one pretrained checkpoint" in (folder / "README.md").read_text()
    assert "The merge" not in (folder / "README.md").read_text()
    again = MedMergeModel.from_pretrained(folder)
    with torch.no_grad():
        assert torch.allclose(again(images).logits, model.eval()(images).logits, atol=1e-5)


def test_a_card_that_somebody_else_wrote_stays(model, tmp_path, caplog):
    (tmp_path / "README.md").write_text("# My project")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "# My project"
    assert "stays as it is" in caplog.text
    model.save_pretrained(tmp_path / "new")
    first = (tmp_path / "new" / "README.md").read_text()
    torch.nn.init.zeros_(model.merge.source_bias)
    model.save_pretrained(tmp_path / "new")
    assert (tmp_path / "new" / "README.md").read_text() != first


def test_the_card_says_what_was_left_out_and_how_pixels_were_scaled(model):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = datasets.Dataset.from_dict({"image": [Image.new("L", (4, 4))] * 2, "label": [0, 1]}, features=features)
    target = Target({"train": rows})
    target.left_out = [("1.png", "of 9 x 9 pixels"), ("2.png", "of 9 x 9 pixels"), ("3.png", "also in /data/x/3.png")]
    target.pixel_rule = {"mode": "L", "black": 0, "white": 4095, "deep_images": 3}
    target.pixel_rule |= {"dicom_images": 2, "dicom_window": [40.0, 400.0]}
    record_data(model.config, target)
    text = render_card(model.config, "merged")
    assert "- 2 left out: of 9 x 9 pixels.\n" in text
    assert "- 1 left out: also in ....\n" in text
    assert "- 3 images of more than 8 bits a channel were scaled to 8, so that 0 is black and 4095 is white.\n" in text
    assert "- 2 images are DICOM, seen through the window of centre 40 and width 400.\n" in text
    del model.config.record["data"]["pixel_rule"], model.config.record["data"]["left_out"]
    assert "left out" not in render_card(model.config, "merged")


@pytest.mark.parametrize(
    ("source", "told"),
    [(None, ":"), ("scans", ", some of them from scans:"), ("org/pool@0123456789abcdef", "`0123456789ab`:")],
)
def test_the_card_counts_images_without_a_label(model, source, told):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = datasets.Dataset.from_dict({"image": [Image.new("L", (4, 4))] * 2, "label": [0, 1]}, features=features)
    target = Target({"train": rows})
    target.unlabelled, target.unlabelled_from = rows.select_columns(["image"]), source
    record_data(model.config, target)
    text = render_card(model.config, "merged")
    assert re.search(r"\| without a label +\| *\| *\| +2 +\|", text)
    note = next(line for line in text.splitlines() if "were used without a label" in line)
    assert note.startswith("- 2 images were used without a label")
    assert f"{told} none of them stands in validation or test." in note
    assert ("(https" in note or "(http" in note) == (source is not None and "/" in source)


def test_the_card_of_several_labels_names_each_and_its_figures(images, tmp_path):
    names = {0: "effusion", 1: "nodule"}
    model = MedMergeModel.from_sources(
        [network(0), network(1)], id2label=names, problem_type="multi_label_classification", image_size=32
    )
    truth = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    data = [{"pixel_values": image, "labels": labels} for image, labels in zip(images, truth, strict=True)]
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True)
    compute = make_compute_metrics(2, multi_label=True)
    MedMergeTrainer(model, arguments, compute_metrics=compute).record_results(data, resamples=20)
    text = (saved(model, tmp_path / "out") / "README.md").read_text()
    assert "for 2 labels, of which an image may have several (effusion, nodule)" in text
    assert re.search(r"\| split \| label +\| F1 ", text)
    assert re.search(r"\| test  \| effusion \| \d\.\d{3} .*\n\| test  \| nodule ", text)
    assert "from 0.5 on taken for yes" in text
    assert "one of its 2 classes" not in text
    answer = pipeline("image-classification", model=str(tmp_path / "out"))(Image.effect_noise((64, 48), 90))
    assert {row["label"] for row in answer} == set(names.values())
    assert sum(row["score"] for row in answer) != pytest.approx(1, abs=1e-3)  # sigmoid
