"""Sources and data from the Hub -> a launched training with --push_to_hub -> a process without this package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import timm
import torch
from accelerate.commands.launch import launch_command, launch_command_parser
from huggingface_hub import ModelCard, hf_hub_download
from safetensors.torch import load_file
from tiny import network

from medmerge_hf import MedMergeModel, load_target, resolve_preprocessing


LAUNCH = ["--cpu", "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
LAUNCH += ["-m", "medmerge_hf.cli", "train"]
CONFIG = """
sources: [tester/natural@main, tester/medical]
data: tester/scans
image_size: {size}
resamples: {resamples}
sources_alone: true
merge: {{num_train_epochs: {merge}, kernel_learning_rate: 0.02, learning_rate: 0.001, use_cpu: true}}
finetune: {{num_train_epochs: {finetune}, learning_rate: 0.0001, use_cpu: true, hub_token: hf_never_to_be_seen}}
"""
STRANGER = """
import json, sys
sys.modules["medmerge_hf"] = None
import timm, torch
from PIL import Image
from transformers import pipeline
classify = pipeline("image-classification", model="tester/merged")
answer = classify([Image.open(path) for path in sys.argv[1:]], top_k=None)
plain = timm.create_model("hf-hub:tester/merged", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(plain))
print(json.dumps([{row["label"]: row["score"] for row in rows} for rows in answer]))
print(plain.pretrained_cfg["label_names"], transform)
"""


def publish_source(model, name, license_):
    timm.models.push_to_hf_hub(model, name, safe_serialization=True)
    ModelCard(f"---\nlicense: {license_}\nlibrary_name: timm\n---\n# A source\n").push_to_hub(name)


def tiny(vessels, real):
    sources = [network(seed) for seed in range(2)]
    return sources, vessels, {"size": 32, "resamples": 50, "merge": 1, "finetune": 1}


def real_fundus(vessels, real):
    sources = []
    for name in ("imagenet_omniart", "fundus_odir"):
        model = timm.create_model("resnet18", num_classes=2)
        tensors = load_file(real / "checkpoints" / "resnet18" / f"{name}.safetensors")
        wrong = model.load_state_dict({k: t for k, t in tensors.items() if not k.startswith("fc.")}, strict=False)
        assert wrong.missing_keys == ["fc.weight", "fc.bias"]
        assert not wrong.unexpected_keys
        sources.append(model)
    return sources, real / "targets" / "fundus_dr", {"size": 112, "resamples": 1000, "merge": 4, "finetune": 4}


@pytest.mark.parametrize("case", [tiny, pytest.param(real_fundus, marks=pytest.mark.slow)])
def test_from_the_hub_and_back(case, hub, vessels, request, tmp_path, monkeypatch, capfd):
    real = request.getfixturevalue("real_data") if case is real_fundus else None
    sources, images, numbers = case(vessels, real)
    publish_source(sources[0], "tester/natural", "mit")
    publish_source(sources[1], "tester/medical", "cc-by-nc-4.0")
    datasets.load_dataset("imagefolder", data_dir=str(images)).push_to_hub("tester/scans")
    (tmp_path / "config.yaml").write_text(CONFIG.format(**numbers))

    command = [*LAUNCH, str(tmp_path / "config.yaml"), "--output_dir", str(tmp_path / "out")]
    command += ["--push_to_hub", "true", "--hub_model_id", "tester/merged", "--hub_private_repo", "true"]
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    command += ["--report_to", "tensorboard"]
    launch_command(launch_command_parser().parse_args(command))
    said = capfd.readouterr()
    assert "| fine-tuned | test" in said.out
    assert list((tmp_path / "logs").rglob("events.out*"))

    assert hub.repos["models", "tester/merged"].private
    assert len(hub.repos["models", "tester/merged"].commits) == 2  # the first one makes the repository
    assert sorted(hub.listing("tester/merged")) == [
        *(".gitattributes", "README.md", "config.json", "medmerge/config.json", "medmerge/kernel_weights.png"),
        *("medmerge/state.safetensors", "model.safetensors", "report.html"),
    ]
    for digest in hub.listing("tester/merged").values():
        assert b"hf_never" not in hub.blobs[digest]
        assert str(tmp_path).encode() not in hub.blobs[digest]
    assert "hf_never" not in (tmp_path / "out" / "run.yaml").read_text() + said.out + said.err

    card = ModelCard.load("tester/merged")
    assert card.data.base_model == ["tester/natural", "tester/medical"]
    assert (card.data.base_model_relation, card.data.license) == ("merge", "cc-by-nc-4.0")
    assert card.data.datasets == ["tester/scans"]
    assert {r.metric_type for r in card.data.eval_results} == {"f1", "accuracy", "balanced_accuracy", "roc_auc"}
    figures = json.loads((tmp_path / "out" / "all_results.json").read_text())
    [accuracy] = [result for result in card.data.eval_results if result.metric_type == "accuracy"]
    assert accuracy.metric_value == pytest.approx(figures["finetuned_test_accuracy"], abs=1e-4)
    assert accuracy.metric_args["low"] <= accuracy.metric_value <= accuracy.metric_args["high"]
    revision = hub.repos["datasets", "tester/scans"].refs["main"]
    for text in (
        "tester/natural alone",
        "tester/medical alone",
        "data: tester/scans",
        "not a medical device",
        revision,
    ):
        assert text in card.text

    ours = MedMergeModel.from_pretrained("tester/merged")
    transform = resolve_preprocessing(ours).eval_transform
    rows = load_target("tester/scans")["test"]
    files = [str(tmp_path / f"{index}.png") for index in range(3)]
    for file, row in zip(files, rows, strict=False):
        row["image"].save(file)
    fresh = {**os.environ, "HF_HOME": str(tmp_path / "fresh-cache"), "PYTHONPATH": ""}
    stranger = subprocess.run(
        [sys.executable, "-c", STRANGER, *files], capture_output=True, text=True, env=fresh, cwd=tmp_path, check=False
    )
    assert stranger.returncode == 0, stranger.stderr[-3000:]
    found = json.loads(stranger.stdout.splitlines()[0])
    for index, scores in enumerate(found):
        with torch.no_grad():
            expected = ours(transform(rows[index]["image"])[None]).logits.softmax(dim=1)[0]
        for label, name in ours.config.id2label.items():
            assert scores[name] == pytest.approx(expected[label].item(), abs=1e-5)

    merging = MedMergeModel.from_pretrained("tester/merged", merging=True)
    assert [s["revision"] for s in merging.config.sources] == [
        hub.repos["models", name].refs["main"] for name in ("tester/natural", "tester/medical")
    ]
    if keep := os.environ.get("MEDMERGE_KEEP"):  # to look at the card in a browser
        for path in hub.listing("tester/merged"):
            target = Path(keep) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(Path(hf_hub_download("tester/merged", path)).read_bytes())
