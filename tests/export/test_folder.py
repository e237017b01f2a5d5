import json
import os
import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from tiny import network
from transformers import AutoModelForImageClassification

from medmerge_hf import MedMergeModel
from medmerge_hf.errors import (
    ChangedSourceError,
    CorruptSourceError,
    ExportError,
    SettingsError,
    SourceNotFoundError,
    StateError,
)


@pytest.fixture
def saved(tmp_path):
    """A merge of two files, exported; the folder holds the sources too."""
    for index in range(2):
        save_file(network(index).state_dict(), tmp_path / f"source{index}.safetensors")
    files = [str(tmp_path / f"source{index}.safetensors") for index in range(2)]
    model = MedMergeModel.from_sources(files, architecture="test_resnet", num_labels=3, image_size=32).eval()
    torch.nn.init.normal_(model.merge.source_bias, 0.3, 0.1)
    model.save_pretrained(tmp_path / "out")
    return model, tmp_path / "out"


def logits(model, images):
    with torch.no_grad():
        out = model.eval()(images)
    return getattr(out, "logits", out)


def test_export_loads_with_transformers_and_timm_and_gives_the_same_logits(saved, images):
    model, folder = saved
    expected = logits(model, images)
    assert torch.allclose(logits(AutoModelForImageClassification.from_pretrained(folder), images), expected, atol=1e-5)
    assert torch.allclose(
        logits(timm.create_model(f"local-dir:{folder}", pretrained=True), images), expected, atol=1e-5
    )


def test_a_process_without_this_package_loads_the_export(saved, images, tmp_path):
    model, folder = saved
    save_file({"images": images}, tmp_path / "images.safetensors")
    script = f"""
import sys
sys.modules["medmerge_hf"] = None  # every import of it fails
import timm, torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification, pipeline
images = load_file(r"{tmp_path}/images.safetensors")["images"]
auto = AutoModelForImageClassification.from_pretrained(r"{folder}").eval()
plain = timm.create_model(r"local-dir:{folder}", pretrained=True).eval()
answer = pipeline("image-classification", model=r"{folder}")(Image.new("RGB", (40, 40)))
assert len(answer) == 3, answer
with torch.no_grad():
    save_file({{"auto": auto(images).logits, "timm": plain(images)}}, r"{tmp_path}/logits.safetensors")
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": ""})
    for found in load_file(tmp_path / "logits.safetensors").values():
        assert torch.allclose(found, logits(model, images), atol=1e-5)


def test_export_holds_no_custom_code_and_no_pickle(saved):
    _, folder = saved
    config = json.loads((folder / "config.json").read_text())
    assert sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()) == [
        "README.md",
        "config.json",
        "medmerge/config.json",
        "medmerge/kernel_weights.png",
        "medmerge/state.safetensors",
        "model.safetensors",
    ]
    assert "auto_map" not in config
    assert config["model_type"] == "timm_wrapper"
    assert "num_classes" not in (config["model_args"] or {})
    assert "conv1.0.weight" in load_file(folder / "model.safetensors")


def test_merge_state_is_small(real_data, tmp_path):
    folder = real_data / "checkpoints" / "resnet18"
    files = [str(folder / "imagenet_omniart.safetensors"), str(folder / "fundus_odir.safetensors")]
    MedMergeModel.from_sources(files, architecture="resnet18", num_labels=4).save_pretrained(tmp_path / "out")
    sizes = [(tmp_path / "out" / name).stat().st_size for name in ("medmerge/state.safetensors", "model.safetensors")]
    assert sizes[0] < 0.05 * sizes[1]


def test_from_pretrained_gives_the_same_logits_collapsed_and_merging(saved, images):
    model, folder = saved
    collapsed, merging = MedMergeModel.from_pretrained(folder), MedMergeModel.from_pretrained(folder, merging=True)
    assert (collapsed.merging, merging.merging) == (False, True)
    expected = model.plain_model().state_dict()
    for found in (collapsed, merging):
        tensors = found.plain_model().state_dict()
        assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())
        # A convolution may round differently where its weights lie at another address.
        assert torch.allclose(logits(found, images), logits(model, images), atol=1e-6)
    assert collapsed.kernel_weights().equals(model.kernel_weights())


def test_merging_comes_back_as_the_merge_stage_ended_whatever_happened_since(saved, images, tmp_path):
    model, _ = saved
    expected = logits(model, images)
    model.collapse([images])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    model.save_pretrained(tmp_path / "tuned")
    again = MedMergeModel.from_pretrained(tmp_path / "tuned", merging=True)
    assert torch.allclose(logits(again, images), expected, atol=1e-6)
    assert not torch.allclose(logits(MedMergeModel.from_pretrained(tmp_path / "tuned"), images), expected)


def test_an_export_saved_again_is_the_same(saved, tmp_path):
    _, folder = saved
    MedMergeModel.from_pretrained(folder).save_pretrained(tmp_path / "again")
    for name in ("model.safetensors", "medmerge/state.safetensors"):
        first, second = load_file(folder / name), load_file(tmp_path / "again" / name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_an_export_is_a_source_of_the_next_merge(saved, tmp_path):
    _, folder = saved
    model = MedMergeModel.from_sources([str(folder), network(5)], num_labels=2)
    assert model.config.sources[0]["loader"] == "timm"
    assert model.merging


def test_a_vanished_source_is_named_and_the_collapsed_model_still_offered(saved, tmp_path):
    _, folder = saved
    (tmp_path / "source1.safetensors").unlink()
    with pytest.raises(SourceNotFoundError, match=r"source1\.safetensors.*collapsed model itself still loads"):
        MedMergeModel.from_pretrained(folder, merging=True)
    assert not MedMergeModel.from_pretrained(folder).merging


def test_a_changed_source_is_refused_and_can_be_named_elsewhere(saved, tmp_path, images):
    model, folder = saved
    save_file(network(9).state_dict(), tmp_path / "source1.safetensors")
    with pytest.raises(ChangedSourceError, match="not the one that was merged"):
        MedMergeModel.from_pretrained(folder, merging=True)
    again = MedMergeModel.from_pretrained(folder, merging=True, sources=[network(0), network(1)])
    assert torch.allclose(logits(again, images), logits(model, images), atol=1e-6)


def test_a_folder_that_is_no_export_is_refused(tmp_path):
    single = timm.create_model("test_resnet", num_classes=2)
    timm.models.save_for_hf(single, tmp_path / "plain", safe_serialization=True)
    with pytest.raises(StateError, match="not exported by medmerge_hf"):
        MedMergeModel.from_pretrained(tmp_path / "plain")
    with pytest.raises(CorruptSourceError, match=r"config\.json"):
        MedMergeModel.from_pretrained(tmp_path)


def test_a_model_that_diverged_is_not_saved(model, tmp_path):
    with torch.no_grad():
        model.network.timm_model.fc.weight[0, 0] = float("nan")
    with pytest.raises(ExportError, match=r"fc\.weight holds NaN"):
        model.save_pretrained(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_earlier_export_as_it_was(saved, monkeypatch):
    model, folder = saved
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with torch.no_grad():
        model.merge.source_bias.add_(1)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medmerge_hf.export.folder.save_merge_state", full)
    with pytest.raises(OSError, match="No space left"):
        model.save_pretrained(folder)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before
    assert [f.name for f in folder.parent.iterdir() if f.name.startswith(".")] == []


def test_an_export_replaces_its_own_files_and_keeps_others(saved):
    model, folder = saved
    (folder / "notes.txt").write_text("mine")
    with torch.no_grad():
        model.merge.source_bias.zero_()
    model.save_pretrained(folder)
    assert (folder / "notes.txt").read_text() == "mine"
    assert MedMergeModel.from_pretrained(folder).kernel_weights().query("weight == 1").shape[0] > 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_an_export_may_have_half_the_size(model, images, tmp_path, dtype):
    model.save_pretrained(tmp_path / "full")
    model.save_pretrained(tmp_path / "half", dtype=dtype)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "half", dtype=torch.float32).eval()
    assert torch.allclose(again(images).logits, model(images).logits, rtol=0.1, atol=0.05)
    assert model.network.dtype == torch.float32


def test_an_unknown_export_dtype_is_refused(model, tmp_path):
    with pytest.raises(SettingsError, match="float32, bfloat16, float16"):
        model.save_pretrained(tmp_path / "out", dtype="int8")
    assert not (tmp_path / "out").exists()


def test_saving_draws_no_random_numbers(model, tmp_path):
    state = torch.get_rng_state()
    model.save_pretrained(tmp_path / "out")
    assert torch.equal(torch.get_rng_state(), state)
