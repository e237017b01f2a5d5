import timm
import torch
from conftest import network
from datasets import ClassLabel as Labels
from datasets import Dataset, DatasetDict, Features
from datasets import Image as ImageFeature
from hub_server import TOKEN
from huggingface_hub import HfApi
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel

from medmerge_hf import MedMergeModel, load_target


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
        assert torch.equal(again(images).logits, model(images).logits)
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


def test_push_to_hub_uploads_an_export(hub, model, images):
    model.push_to_hub("tester/pushed")
    files = set(hub.listing("tester/pushed"))
    assert {"config.json", "model.safetensors", "medmerge/state.safetensors", "medmerge/config.json"} <= files
    assert not any(name.endswith(".bin") for name in files)
    with torch.no_grad():
        again = MedMergeModel.from_pretrained("tester/pushed")
        assert torch.allclose(again(images).logits, model(images).logits, atol=1e-5)


def test_saving_with_push_to_hub_uploads_the_same(hub, model, tmp_path):
    model.save_pretrained(tmp_path / "out", push_to_hub=True, repo_id="tester/saved")
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert "medmerge/state.safetensors" in hub.listing("tester/saved")
