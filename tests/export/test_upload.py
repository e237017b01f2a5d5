import json
import os
import subprocess
import sys
import threading

import pytest
import timm
import torch
from datasets import ClassLabel as Labels
from datasets import Dataset, DatasetDict, Features
from datasets import Image as ImageFeature
from hub_server import TOKEN
from huggingface_hub import HfApi, ModelCard
from PIL import Image
from tiny import network
from transformers import (
    ConvNextImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    ResNetModel,
    TrainingArguments,
    pipeline,
)

from medmerge_hf import MedMergeModel, MedMergeTrainer, load_target, resolve_preprocessing
from medmerge_hf.errors import ChangedSourceError, SettingsError, SourceNotFoundError


def push_timm(name, seed):
    timm.models.push_to_hf_hub(network(seed), name, safe_serialization=True)


def same_backbone(model, reference):
    plain = model.plain_model().timm_model.state_dict()
    return all(torch.equal(tensor, plain[key]) for key, tensor in reference.state_dict().items() if "fc." not in key)


def test_timm_ids_hub_ids_and_bare_names_are_sources(hub):
    push_timm("timm/test_resnet.r160_in1k", 0)
    push_timm("tester/fundus", 1)
    for anchor in ("test_resnet.r160_in1k", "timm/test_resnet.r160_in1k", "hf-hub:timm/test_resnet.r160_in1k"):
        model = MedMergeModel.from_sources([anchor, "tester/fundus"], num_labels=2)
        assert same_backbone(model, network(0))
        assert [source["id"] for source in model.config.sources] == ["timm/test_resnet.r160_in1k", "tester/fundus"]


def test_a_revision_is_pinned_and_found_again_after_the_repository_moved_on(hub, tmp_path, images):
    push_timm("tester/anchor", 0)
    push_timm("tester/other", 1)
    first = HfApi().model_info("tester/other").sha
    model = MedMergeModel.from_sources(["tester/anchor", "tester/other"], num_labels=2, image_size=32, init=0.3)
    assert model.config.sources[1]["revision"] == first
    model.save_pretrained(tmp_path / "out")
    push_timm("tester/other", 7)
    again = MedMergeModel.from_pretrained(tmp_path / "out", merging=True)
    pinned = MedMergeModel.from_sources(["tester/anchor", f"tester/other@{first}"], num_labels=2)
    newest = MedMergeModel.from_sources(["tester/anchor", "tester/other"], num_labels=2)
    with torch.no_grad():
        assert torch.allclose(again(images).logits, model(images).logits, atol=1e-6)
    shas = [m.config.sources[1]["sha256"] for m in (model, pinned, newest)]
    assert shas[0] == shas[1] != shas[2]


def test_transformers_ids_are_sources_classifier_and_backbone(hub):
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], num_labels=5)
    ResNetForImageClassification(config).push_to_hub("tester/classifier")
    ResNetModel(config).push_to_hub("tester/backbone")
    model = MedMergeModel.from_sources(["tester/classifier", "tester/backbone"], num_labels=2)
    assert [source["loader"] for source in model.config.sources] == ["transformers", "transformers"]
    assert type(model.plain_model()) is ResNetForImageClassification


def test_an_export_on_the_hub_loads_in_every_way(hub, model, images, tmp_path):
    model.save_pretrained(tmp_path / "out")
    HfApi().create_repo("tester/merged")
    HfApi().upload_folder(repo_id="tester/merged", folder_path=tmp_path / "out")
    with torch.no_grad():
        expected = model(images).logits
        ours = MedMergeModel.from_pretrained("tester/merged")
        assert torch.allclose(ours(images).logits, expected, atol=1e-5)
        plain = timm.create_model("hf-hub:tester/merged", pretrained=True).eval()
        assert torch.allclose(plain(images), expected, atol=1e-5)


def test_a_hub_data_set_is_a_target(hub):
    features = Features({"image": ImageFeature(), "label": Labels(names=["ill", "well"])})
    rows = {"image": [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(8)], "label": [0, 1] * 4}
    data = Dataset.from_dict(rows, features=features)
    DatasetDict({"train": data, "test": data}).push_to_hub("tester/scans")
    target = load_target("tester/scans", validation_fraction=0.25)
    assert {split: len(rows) for split, rows in target.items()} == {"train": 6, "validation": 2, "test": 8}
    assert target["train"].features["label"].names == ["ill", "well"]


def test_no_token_is_written_into_an_export(hub, tmp_path):
    for seed in range(2):
        push_timm(f"tester/private{seed}", seed)
        hub.repos["models", f"tester/private{seed}"].private = True
    model = MedMergeModel.from_sources(["tester/private0", "tester/private1"], num_labels=2)
    model.save_pretrained(tmp_path / "out")
    assert not any(TOKEN.encode() in file.read_bytes() for file in (tmp_path / "out").rglob("*.*"))


def digests(hub, name, revision="main"):
    """What a repository holds, without what is there from the start."""
    return {path: digest for path, digest in hub.listing(name, revision=revision).items() if path != ".gitattributes"}


EXPORT = {
    *("README.md", "config.json", "medmerge/config.json", "medmerge/kernel_weights.png", "medmerge/state.safetensors"),
    "model.safetensors",
}


def test_push_to_hub_is_one_commit_and_pushing_the_same_again_is_none(hub, model, images):
    info = model.push_to_hub("tester/pushed", commit_message="First merge")
    repo = hub.repos["models", "tester/pushed"]
    assert digests(hub, "tester/pushed").keys() == EXPORT
    assert [commit.title for commit in repo.commits] == ["initial commit", "First merge"]
    assert info.oid == repo.refs["main"]
    MedMergeModel.from_pretrained("tester/pushed").push_to_hub("pushed")
    assert len(repo.commits) == 2
    with torch.no_grad():
        again = MedMergeModel.from_pretrained("tester/pushed")
        assert torch.allclose(again(images).logits, model(images).logits, atol=1e-5)


def test_a_push_can_go_to_a_branch_or_a_pull_request_or_a_private_repository(hub, model):
    model.push_to_hub("tester/pushed", private=True, tags=["retina"])
    repo, main = hub.repos["models", "tester/pushed"], digests(hub, "tester/pushed")
    assert repo.private
    assert "retina" in ModelCard.load("tester/pushed").data.tags
    torch.nn.init.zeros_(model.merge.source_bias)
    model.push_to_hub("tester/pushed", revision="second")
    info = model.push_to_hub("tester/pushed", create_pr=True)
    assert info.pr_num == 1
    assert digests(hub, "tester/pushed") == main
    assert digests(hub, "tester/pushed", "second")["model.safetensors"] != main["model.safetensors"]
    assert (
        MedMergeModel.from_pretrained("tester/pushed", revision="second").kernel_weights()["weight"] % 1 == 0
    ).all()


def native():
    """A merge of transformers' own networks, whose weights may lie in several files."""
    sources = [ResNetForImageClassification(ResNetConfig(hidden_sizes=[8, 12], depths=[1, 1])) for _ in range(2)]
    return MedMergeModel.from_sources(sources, num_labels=3)


def test_a_push_replaces_an_earlier_export_and_leaves_other_files(hub):
    model = native()
    model.push_to_hub("tester/pushed", max_shard_size="5KB")
    HfApi().upload_file(repo_id="tester/pushed", path_in_repo="notes.txt", path_or_fileobj=b"mine")
    shards = digests(hub, "tester/pushed").keys() - EXPORT - {"notes.txt"}
    assert "model.safetensors.index.json" in shards
    model.push_to_hub("tester/pushed")
    assert digests(hub, "tester/pushed").keys() == EXPORT | {"notes.txt", "preprocessor_config.json"}


def test_saving_into_a_folder_replaces_an_earlier_export_too(tmp_path):
    model = native()
    model.save_pretrained(tmp_path / "out", max_shard_size="5KB")
    assert len(list((tmp_path / "out").glob("model-*"))) > 1
    model.save_pretrained(tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").glob("model*")} == {"model.safetensors"}


def test_all_ways_to_push_give_the_same_repository(hub, model, tmp_path):
    model.push_to_hub("tester/a")
    model.save_pretrained(tmp_path / "b", push_to_hub=True, repo_id="tester/b")
    arguments = {"report_to": "none", "use_cpu": True}
    MedMergeTrainer(model, TrainingArguments(str(tmp_path / "c"), **arguments)).push_to_hub()
    ends = TrainingArguments(
        str(tmp_path / "d"), push_to_hub=True, hub_model_id="tester/d", hub_strategy="end", **arguments
    )
    MedMergeTrainer(model, ends).save_model()
    first = digests(hub, "tester/a")
    for name in "bcd":
        found = digests(hub, f"tester/{name}")
        assert found.keys() == EXPORT
        assert {path for path in EXPORT if found[path] != first[path]} == {"README.md"}  # it names the repository


def test_training_with_every_save_pushes_exports_and_no_pickle(hub, model, images, tmp_path):
    data = [{"pixel_values": image, "labels": index % 3} for index, image in enumerate(images)]
    arguments = TrainingArguments(
        str(tmp_path / "run"),
        **{"push_to_hub": True, "hub_model_id": "tester/run", "hub_always_push": True, "hub_token": TOKEN},
        **{"max_steps": 2, "save_steps": 1, "use_cpu": True, "report_to": "none", "disable_tqdm": True},
    )
    MedMergeTrainer(model, arguments, train_dataset=data).train()
    repo = hub.repos["models", "tester/run"]
    assert [c.title for c in repo.commits[1:]] == ["Training in progress, step 1", "Training in progress, step 2"]
    for commit in repo.commits[1:]:
        assert commit.files.keys() - {".gitattributes"} == EXPORT
    assert not any(TOKEN.encode() in hub.blobs[digest] for digest in digests(hub, "tester/run").values())


def test_an_upload_in_the_background_is_of_the_export_that_it_was_called_for(hub, model, tmp_path):
    trainer = MedMergeTrainer(model, TrainingArguments(str(tmp_path / "run"), report_to="none", use_cpu=True))
    go_on = threading.Event()
    hub.fault = lambda index, method, path: None if "preupload" not in path else (go_on.wait(60), None)[1]
    first = trainer.push_to_hub(blocking=False)
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    torch.nn.init.zeros_(model.merge.source_bias)
    trainer.save_model()  # while it runs
    after = (tmp_path / "run" / "model.safetensors").read_bytes()
    go_on.set()
    first.result(timeout=60)
    assert before != after
    assert hub.blobs[digests(hub, "tester/run")["model.safetensors"]] == before
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.parametrize("strategy", ["checkpoint", "all_checkpoints"])
def test_strategies_that_upload_optimizer_states_are_refused(hub, model, tmp_path, strategy):
    arguments = TrainingArguments(str(tmp_path), push_to_hub=True, hub_strategy=strategy, use_cpu=True)
    with pytest.raises(SettingsError, match="pickles"):
        MedMergeTrainer(model, arguments)


def test_the_form_to_train_on_is_not_pushed(hub, model, tmp_path):
    with pytest.raises(SettingsError, match="only the export goes to the Hub"):
        model.save_pretrained(tmp_path / "out", collapse=False, push_to_hub=True)


def test_no_path_of_this_machine_and_no_token_is_uploaded(hub, tmp_path):
    for seed in range(2):
        timm.models.save_for_hf(network(seed), tmp_path / f"source{seed}", safe_serialization=True)
    sources = [str(tmp_path / f"source{seed}") for seed in range(2)]
    model = MedMergeModel.from_sources(sources, num_labels=2, image_size=32)
    model.push_to_hub("tester/pushed", token=TOKEN)
    for digest in digests(hub, "tester/pushed").values():
        assert str(tmp_path).encode() not in hub.blobs[digest]
        assert TOKEN.encode() not in hub.blobs[digest]
    with pytest.raises(SourceNotFoundError, match=r"source0.*collapsed model itself still loads"):
        MedMergeModel.from_pretrained("tester/pushed", merging=True)
    again = MedMergeModel.from_pretrained("tester/pushed", merging=True, sources=sources)
    assert again.merging


@pytest.fixture
def merged(hub):
    """A merge of two repositories, pushed."""
    for seed in range(2):
        push_timm(f"tester/source{seed}", seed)
    model = MedMergeModel.from_sources(["tester/source0", "tester/source1"], num_labels=3, image_size=32)
    torch.nn.init.normal_(model.merge.source_bias, 0.3, 0.1)
    model.push_to_hub("tester/merged")
    return model


def forget(hub):
    del hub.repos["models", "tester/source1"]


def gate(hub):
    hub.repos["models", "tester/source1"].gated = True


def hide(hub):
    hub.repos["models", "tester/source1"].private = True


@pytest.mark.parametrize(("change", "reason"), [(forget, "is not there"), (gate, "is gated"), (hide, "private")])
def test_a_source_that_is_out_of_reach_is_named_and_the_collapsed_model_offered(
    merged, hub, change, reason, images, tmp_path, monkeypatch
):
    change(hub)
    if change is hide:
        monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(SourceNotFoundError, match=rf"'tester/source1'.*{reason}.*collapsed model itself still loads"):
        MedMergeModel.from_pretrained("tester/merged", merging=True, cache_dir=tmp_path)
    collapsed = MedMergeModel.from_pretrained("tester/merged", cache_dir=tmp_path)
    with torch.no_grad():
        assert torch.allclose(collapsed(images).logits, merged(images).logits, atol=1e-5)


def test_a_source_whose_weights_changed_under_its_revision_is_refused(merged, hub, tmp_path):
    commit = hub.repos["models", "tester/source1"].at("main")
    timm.models.save_for_hf(network(9), tmp_path / "other", safe_serialization=True)
    commit.files["model.safetensors"] = hub.store((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(ChangedSourceError, match=r"'tester/source1'.*collapsed model itself still loads"):
        MedMergeModel.from_pretrained("tester/merged", merging=True, cache_dir=tmp_path)


def test_private_repositories_open_with_a_token_given_for_the_call(merged, hub, tmp_path, monkeypatch, caplog):
    for name in ("merged", "source0", "source1"):
        hub.repos["models", f"tester/{name}"].private = True
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(SourceNotFoundError, match=r"'tester/merged'.*private"):
        MedMergeModel.from_pretrained("tester/merged", cache_dir=tmp_path)
    model = MedMergeModel.from_pretrained("tester/merged", merging=True, token=TOKEN, cache_dir=tmp_path)
    assert model.merging
    again = MedMergeModel.from_sources(["tester/source0", "tester/source1"], num_labels=2, token=TOKEN)
    assert TOKEN not in json.dumps(again.config.to_dict()) + caplog.text


def test_what_was_loaded_once_loads_offline(merged, hub):
    MedMergeModel.from_pretrained("tester/merged")
    hub.reset()
    script = """
from medmerge_hf import MedMergeModel
model = MedMergeModel.from_pretrained("tester/merged", merging=True)
again = MedMergeModel.from_sources(["tester/source0", "tester/source1"], num_labels=2)
print(model.kernel_weights()["weight"].std(), [s["revision"] for s in again.config.sources])
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not hub.requests
    revisions = [source["revision"] for source in merged.config.sources]
    assert done.stdout.split(" ", 1) == [str(merged.kernel_weights()["weight"].std()), f"{revisions}\n"]


def test_licences_are_read_off_cards_and_configs(hub):
    push_timm("tester/source0", 0)
    push_timm("tester/source1", 1)
    ModelCard("---\nlicense: mit\n---\n").push_to_hub("tester/source0")
    hub.repos["models", "tester/source1"].at("main").files.pop("README.md")
    model = MedMergeModel.from_sources(["tester/source0", "tester/source1"], num_labels=2)
    assert [source["license"] for source in model.config.sources] == ["mit", "apache-2.0"]


def test_a_transformers_native_export_keeps_its_processor_and_pipeline_answers_as_we_do(hub, tmp_path):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], num_labels=5)
    for seed in range(2):
        torch.manual_seed(seed)
        ResNetForImageClassification(config).push_to_hub(f"tester/native{seed}")
        ConvNextImageProcessor(size={"shortest_edge": 40}, image_mean=[0.3] * 3).push_to_hub(f"tester/native{seed}")
    names = {0: "ill", 1: "well"}
    model = MedMergeModel.from_sources(["tester/native0", "tester/native1"], id2label=names, init=0.5)
    model.push_to_hub("tester/merged")
    assert digests(hub, "tester/merged").keys() == EXPORT | {"preprocessor_config.json"}
    assert ModelCard.load("tester/merged").data.license == "unknown"
    photo = Image.effect_noise((64, 48), 90).convert("RGB")
    [*answer] = pipeline("image-classification", model="tester/merged")(photo)
    with torch.no_grad():
        ours = model(resolve_preprocessing(model).eval_transform(photo)[None]).logits.softmax(dim=1)[0]
    assert {row["label"]: pytest.approx(row["score"], abs=1e-5) for row in answer} == {
        name: ours[index].item() for index, name in names.items()
    }
