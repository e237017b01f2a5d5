import json
import subprocess
import sys

import pytest
import timm
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from tiny import network
from transformers import ResNetConfig, ResNetForImageClassification

from medmerge_hf import MedMergeModel, inspect_sources
from medmerge_hf.cli import main
from medmerge_hf.errors import MedMergeError, SettingsError


def save(seed, file, name="test_resnet", **kwargs):
    save_file(network(seed, name).state_dict(), file, **kwargs)
    return str(file)


def upload(repo, folder):
    api = HfApi()
    api.create_repo(repo)
    api.upload_folder(repo_id=repo, folder_path=folder)


def test_a_report_says_what_a_load_will_do(tmp_path):
    files = [save(0, tmp_path / "a.safetensors"), save(1, tmp_path / "b.safetensors", metadata={"trained_on": "skin"})]
    stated = {"id": files[1], "input": "caffe", "variant": {"bn_eps": 1e-3}}
    found = inspect_sources([files[0], stated], "test_resnet")
    model = MedMergeModel.from_sources([files[0], stated], architecture="test_resnet", num_labels=2)
    assert found.ok
    anchor, other = found.sources
    for note in other.notes:
        assert note in model.config.sources[1]["notes"]
    assert (other.matched, other.batch_norms) == (45, 15)
    assert sorted(other.dropped) == ["fc.bias", "fc.weight"]
    assert other.metadata == {"trained_on": "skin"}
    assert other.dtypes["float32"] == 77
    assert (found.download_bytes, found.device_bytes) == (0, 2 * 4 * anchor.merged_parameters)


def test_the_cosine_tells_one_initialisation_from_two(tmp_path):
    start, child = network(0), network(0)
    with torch.no_grad():
        for parameter in child.parameters():
            parameter += 0.1 * parameter.std().nan_to_num() * torch.randn_like(parameter)
    for name, module in (("start", start), ("child", child), ("other", network(1))):
        save_file(module.state_dict(), tmp_path / f"{name}.safetensors")
    files = [str(tmp_path / f"{name}.safetensors") for name in ("start", "child", "other")]
    _, child_report, other_report = inspect_sources(files, "test_resnet").sources
    assert child_report.cosine > 0.9
    assert abs(other_report.cosine) < 0.2


def test_what_is_wrong_with_a_source_stands_beside_it(tmp_path):
    (tmp_path / "text.safetensors").write_text("404: not found")
    sources = [
        save(0, tmp_path / "a.safetensors"),
        str(tmp_path / "text.safetensors"),
        save(0, tmp_path / "vit.safetensors", "test_vit"),
        {"id": save(1, tmp_path / "b.safetensors"), "variant": {"padding": "tf_same"}},
        "nobody/nothing",
    ]
    found = inspect_sources(sources, "test_resnet")
    assert not found.ok
    problems = [report.problem for report in found.sources]
    assert problems[0] is None
    for problem, words in zip(
        problems[1:], ("text file", "not the anchor's", "padding tf_same", "is not there"), strict=True
    ):
        assert words in problem


def test_nothing_can_be_said_of_nothing():
    with pytest.raises(SettingsError):
        inspect_sources([])


def test_transformers_folders_are_compared_by_their_files(tmp_path):
    for seed in range(2):
        torch.manual_seed(seed)
        config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=5)
        ResNetForImageClassification(config).save_pretrained(tmp_path / str(seed))
    found = inspect_sources([str(tmp_path / "0"), str(tmp_path / "1")])
    assert found.ok
    assert found.sources[1].matched > 10


def test_a_pickle_is_inspected_by_its_names(tmp_path):
    torch.save(network(1).state_dict(), tmp_path / "b.pth")
    found = inspect_sources([save(0, tmp_path / "a.safetensors"), str(tmp_path / "b.pth")], "test_resnet")
    assert found.ok
    assert found.sources[1].matched == 45


def test_on_the_hub_less_than_a_hundredth_of_a_file_is_read(hub, tmp_path):
    for seed in range(2):
        model = timm.create_model("resnet18", num_classes=10)
        timm.models.save_for_hf(model, tmp_path / str(seed), safe_serialization=True)
        (tmp_path / str(seed) / "README.md").write_text("---\nlicense: mit\nbase_model: some/other\n---\n# A card\n")
        upload(f"tester/resnet18-{seed}", tmp_path / str(seed))
    before = hub.bytes_sent
    found = inspect_sources(["tester/resnet18-0", "tester/resnet18-1"])
    read = hub.bytes_sent - before
    assert found.ok
    assert found.sources[1].matched == 60
    assert (found.sources[1].license, found.sources[1].base_model) == ("mit", ["some/other"])
    assert found.download_bytes == sum(report.bytes for report in found.sources) > 88e6
    assert read < 0.01 * found.download_bytes
    assert not any(path.endswith((".safetensors", ".bin")) and method == "PUT" for method, path in hub.requests[-20:])


def test_a_weights_file_anywhere_in_a_repository_is_a_source(hub, tmp_path):
    (tmp_path / "weights").mkdir()
    save(1, tmp_path / "weights" / "skin.safetensors")
    upload("tester/lab", tmp_path)
    reference = {"id": "tester/lab", "file": "weights/skin.safetensors", "architecture": "test_resnet"}
    assert inspect_sources([network(0), reference]).ok
    model = MedMergeModel.from_sources([network(0), reference], num_labels=2, init=1.0)
    stored = model.config.sources[1]
    assert len(stored["revision"]) == 40
    assert stored["file"] == "weights/skin.safetensors"
    assert torch.allclose(model.plain_model().timm_model.conv1[0].weight, network(1).conv1[0].weight, atol=1e-6)


def test_a_pickle_on_the_hub_is_said_to_be_unknown(hub, tmp_path):
    timm.models.save_for_hf(network(1), tmp_path, safe_serialization=False)
    upload("tester/pickle", tmp_path)
    found = inspect_sources([network(0), "tester/pickle"])
    assert "known only once it is downloaded" in found.sources[1].problem


def test_the_command_prints_a_table_or_json_and_fails_where_the_merge_would(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    a, b = save(0, tmp_path / "a.safetensors"), save(1, tmp_path / "b.safetensors")
    with pytest.raises(SystemExit) as done:
        main(["inspect", a, json.dumps({"id": b, "input": "unit"}), "--architecture", "test_resnet"])
    text = capsys.readouterr().out
    assert done.value.code == 0
    assert "(mean 0, std 1)" in text
    assert "not stated" in text
    with pytest.raises(SystemExit) as done:
        main(
            ["inspect", a, save(0, tmp_path / "v.safetensors", "test_vit"), "--architecture", "test_resnet", "--json"]
        )
    assert done.value.code == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["ok"]
    assert "not the anchor's architecture" in found["sources"][1]["problem"]


def test_a_piped_inspection_is_one_fact_a_line(tmp_path, capsys):
    torch.save({"state_dict": network(1).state_dict(), "state_dict_ema": network(2).state_dict()}, tmp_path / "b.pth")
    files = [save(0, tmp_path / "a.safetensors"), str(tmp_path / "b.pth"), str(tmp_path / "nowhere.pth")]
    with pytest.raises(SystemExit) as done:
        main(["inspect", *files, "--architecture", "test_resnet"])
    text = capsys.readouterr().out
    assert done.value.code == 1
    assert text.isascii()
    lines = text.splitlines()
    assert "b.pth: note: entry 'state_dict' read, not 'state_dict_ema' (entry='state_dict_ema' takes that)" in lines
    assert "b.pth: dropped: fc.weight" in lines
    assert "a.safetensors: cosine to the anchor: it is the anchor" in lines
    assert any(line.startswith(f"{files[2]}: problem: ") and "no such file" in line for line in lines)
    assert lines[-1] == "merges: no"


def test_files_of_one_name_are_told_apart_and_of_an_unreadable_one_nothing_is_made_up(tmp_path):
    for seed in range(2):
        (tmp_path / str(seed)).mkdir()
        save(seed, tmp_path / str(seed) / "model.safetensors")
    files = [str(tmp_path / str(seed) / "model.safetensors") for seed in range(2)]
    found = inspect_sources([*files, {"id": str(tmp_path / "absent.pth")}], "test_resnet")
    lines = found.to_text().splitlines()
    assert "model.safetensors (source 0): matched: 45" in lines
    assert "model.safetensors (source 1): matched: 45" in lines
    about = [line for line in lines if "absent.pth" in line]
    assert len(about) == 1
    assert about[0].startswith(f"{tmp_path / 'absent.pth'}: problem: ")


def test_inspecting_files_imports_nothing_for_data_or_pictures(tmp_path):
    files = [save(seed, tmp_path / f"{seed}.safetensors") for seed in range(2)]
    code = (
        "import sys; from medmerge_hf.inspection import inspect_sources; "
        f"assert inspect_sources({files!r}, 'test_resnet').ok; "
        "heavy = {'datasets', 'sklearn', 'matplotlib', 'pandas', 'evaluate', 'h5py', 'onnx'}; "
        "print(sorted(heavy & sys.modules.keys()))"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["fc.weight", "layer1.0.conv1.weight"])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.int32, torch.complex64])
def test_it_agrees_with_the_merge_on_quantised_tensors_of_a_folder(tmp_path, name, dtype):
    for seed in range(2):
        timm.models.save_for_hf(network(seed), tmp_path / str(seed), safe_serialization=True)
    file = tmp_path / "1" / "model.safetensors"
    tensors = load_file(file)
    tensors[name] = tensors[name].to(dtype)
    if dtype == torch.int8:
        tensors[f"{name}_scale"] = torch.ones(1)
    save_file(tensors, file, metadata={"format": "pt"})
    sources = [str(tmp_path / str(seed)) for seed in range(2)]
    found = inspect_sources(sources)
    if name == "fc.weight":
        assert found.ok
        assert MedMergeModel.from_sources(sources, num_labels=2).merging
        return
    with pytest.raises(MedMergeError) as caught:
        MedMergeModel.from_sources(sources, num_labels=2)
    assert found.sources[1].problem == str(caught.value)
    assert name in str(caught.value)
