import dataclasses
import json

import pytest
import timm
import torch
from pages import Page
from run_files import results, write

from medmerge_hf import MedMergeModel, load_target
from medmerge_hf.runs import auto, train
from medmerge_hf.runs.settings import make_settings


STAGE = {"max_steps": 2, "use_cpu": True, "disable_tqdm": True, "per_device_train_batch_size": 8}


@pytest.fixture(scope="module")
def options(folders, vessels):
    stage = {**STAGE, "save_steps": 1, "save_strategy": "steps", "eval_strategy": "steps", "eval_steps": 1}
    return {
        **{"method": "auto", "sources": folders[:2], "data": str(vessels), "image_size": 32, "resamples": 20},
        **{"label_fraction": 0.5, "unlabelled": True, "class_priors": True, "match_shares": True},
        **{"merge": {**stage, "kernel_learning_rate": 0.05}, "finetune": {**stage, "learning_rate": 0.001}},
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory, options):
    config, out = write(tmp_path_factory.mktemp("auto"), options)
    train.main([config])
    return out


def test_a_run_trains_every_source_and_a_taught_merge(whole):
    figures = results(whole)
    assert {"0, finetuned_test_macro_f1", "1, finetuned_test_macro_f1", "finetuned_test_macro_f1"} <= figures.keys()
    assert figures["matched_test_auroc"] != figures["finetuned_test_auroc"]
    record = MedMergeModel.from_pretrained(whole).config.record
    assert record["choice"]["losses"].keys() == {"0", "1", auto.STUDENT}
    assert sum(record["choice"]["shares"].values()) == pytest.approx(1)
    assert min(record["choice"]["temperatures"].values()) >= 1
    card = (whole / "README.md").read_text()
    assert "How it was chosen" in card
    assert record["choice"]["exported"] in card
    assert timm.create_model(f"local-dir:{whole}", pretrained=True).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_the_page_shows_how_every_candidate_was_trained(whole):
    page = Page((whole / "report.html").read_text())
    assert "How it was chosen" in page.headings
    drawn = [text.partition(":")[0] for text in page.pictures]
    stages = ["Merge stage", "Fine-tuning", "Source 1 alone, fine-tuning", "Source 2 alone, fine-tuning"]
    assert [text for text in drawn if text in stages] == stages
    assert page.fetched == []


def test_images_that_lose_their_labels_teach(whole, vessels):
    (checkpoint,) = (whole / "finetune").glob("checkpoint-*")
    training = MedMergeModel.from_pretrained(checkpoint).config.record["training"]
    pool = load_target(vessels, label_fraction=0.5, unlabelled=True).unlabelled
    assert training["merge"]["unlabelled_images"] == len(pool) > 0


@pytest.mark.parametrize("place", ["runs.auto.merge_and_finetune", "runs.stages.MedMergeTrainer.collapse"])
def test_a_killed_run_ends_as_one_that_was_not(whole, options, tmp_path, monkeypatch, place):
    config, out = write(tmp_path, options)
    with monkeypatch.context() as patch:
        patch.setattr(f"medmerge_hf.{place}", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train.main([config])
    trained = {file: file.stat().st_mtime_ns for file in out.glob("teachers/*/export/model.safetensors")}
    assert len(trained) == 2
    train.main([config])
    assert {file: file.stat().st_mtime_ns for file in trained} == trained
    assert results(out) == results(whole)
    for name in ("model.safetensors", "report.html"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_a_source_that_is_clearly_better_alone_is_exported_alone(options, tmp_path, monkeypatch):
    config, out = write(tmp_path, options)
    monkeypatch.setattr(auto, "clearly_worse", lambda *_: True)
    train.main([config])
    model = MedMergeModel.from_pretrained(out)
    assert len(model.config.sources) == 1
    alone = json.loads((out / "medmerge" / "config.json").read_text())
    name = alone["record"]["choice"]["exported"]
    assert name in {"0", "1"}
    figures, own = results(out), json.loads((out / "teachers" / name / "results.json").read_text())
    assert figures["finetuned_test_macro_f1"] == own["finetuned_test_macro_f1"]
    assert {f"{auto.STUDENT}, merged_test_macro_f1", f"{1 - int(name)}, finetuned_test_macro_f1"} <= figures.keys()
    assert "fine-tuned from one pretrained checkpoint" in (out / "README.md").read_text()


def test_the_anchor_stands_first_in_settings_and_recipe(options, tmp_path):
    settings = make_settings({**options, "output_dir": str(tmp_path)})
    found = auto.anchored(settings, 1)
    assert found.source.sources == settings.source.sources[::-1] == found.options["sources"]
    assert dataclasses.replace(found, source=settings.source, options=settings.options) == settings
