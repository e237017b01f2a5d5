import json
import pickle
import struct

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from tiny import network
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification

from medmerge_hf import MedMergeModel
from medmerge_hf.errors import (
    ArchitectureMismatchError,
    CorruptSourceError,
    DuplicateSourceError,
    MedMergeError,
    NonFiniteSourceError,
    SettingsError,
    SourceError,
    SourceNotFoundError,
    UnsafePickleError,
)
from medmerge_hf.sources.load import load_source


class Custom:
    """What pickles of whole training scripts hold."""


def write_text(file):
    file.write_text("404: not found")


def write_lfs_pointer(file):
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n")


def write_truncated(file):
    save_file(network(1).state_dict(), file)
    file.write_bytes(file.read_bytes()[:-1000])


def write_absurd_header(file):
    file.write_bytes(struct.pack("<Q", 2**60) + b"{}")


def write_no_tensors(file):
    torch.save({"epoch": 3}, file)


def write_code(file):
    file.write_bytes(pickle.dumps(Custom()))


def write_module(file):
    torch.save(nn.Linear(2, 2), file)


def write_cut_pickle(file):
    torch.save(network(1).state_dict(), file)
    file.write_bytes(file.read_bytes()[:5000])


BROKEN = {
    "text.safetensors": (write_text, CorruptSourceError, "text file that begins with"),
    "pointer.safetensors": (write_lfs_pointer, CorruptSourceError, "Git LFS pointer"),
    "truncated.safetensors": (write_truncated, CorruptSourceError, "not a complete safetensors file"),
    "header.safetensors": (write_absurd_header, CorruptSourceError, "not a complete safetensors file"),
    "empty.pth": (write_no_tensors, CorruptSourceError, "holds no state dict"),
    "code.bin": (write_code, UnsafePickleError, "would execute code"),
    "module.pth": (write_module, UnsafePickleError, r"python -m medmerge_hf\.sources\.extract"),
    "cut.pth": (write_cut_pickle, CorruptSourceError, "cannot be read by torch"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_with_the_reason(name, tmp_path):
    write, error, message = BROKEN[name]
    write(tmp_path / name)
    with pytest.raises(error, match=message) as caught:
        MedMergeModel.from_sources([network(0), str(tmp_path / name)], num_labels=2)
    assert name in str(caught.value)
    assert isinstance(caught.value, MedMergeError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("source", ["./nowhere.safetensors", "nowhere.pth", "/nowhere/at/all", "local-dir:nowhere"])
def test_a_missing_file_is_named(source):
    with pytest.raises(SourceNotFoundError, match="no such file or folder"):
        load_source(source)


def test_an_unknown_timm_name_suggests_near_ones():
    with pytest.raises(SourceNotFoundError, match=r"no Hub id.*Did you mean resnet18"):
        load_source("resnet18x" if timm.list_models("resnet18x*", pretrained=True) else "resnet18.nonsense")


def test_an_unknown_hub_id_says_what_to_check():
    with pytest.raises(SourceNotFoundError, match=r"nobody/nothing.*is not there"):
        load_source("nobody/nothing")


def test_a_folder_without_config_is_refused(tmp_path):
    with pytest.raises(SourceNotFoundError, match=r"config\.json"):
        load_source(str(tmp_path))


def test_an_unknown_architecture_is_refused(tmp_path):
    save_file(network(1).state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(SettingsError, match="knows no architecture 'resnet1000'"):
        load_source(str(tmp_path / "a.safetensors"), architecture="resnet1000")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.backbone.", "timm_model."])
def test_files_with_wrapper_prefixes_and_foreign_heads_give_the_same_merge(suffix, prefix, tmp_path, caplog):
    caplog.set_level("INFO", logger="medmerge_hf")
    tensors = {f"{prefix}{name}": tensor for name, tensor in network(1).state_dict().items() if "fc." not in name}
    tensors |= {f"{prefix}fc.1.weight": torch.zeros(7, 5), f"{prefix}fc.3.bias": torch.zeros(7)}
    file = tmp_path / f"other{suffix}"
    save_file(tensors, file) if suffix == ".safetensors" else torch.save({"state_dict": tensors, "epoch": 1}, file)
    settings = {"num_labels": 2, "init": 0.4}
    ours = MedMergeModel.from_sources([network(0), str(file)], **settings)
    lines = [record.message for record in caplog.records if "other" in record.message and "matched" in record.message]
    theirs = MedMergeModel.from_sources([network(0), network(1)], **settings)
    assert ours.config.sources[1]["sha256"] == theirs.config.sources[1]["sha256"]
    assert len(lines) == 1
    assert "fc.1.weight" in lines[0]
    assert prefix in lines[0]


def test_timm_folder_and_transformers_folder_are_read(tmp_path):
    timm.models.save_for_hf(network(1), tmp_path / "timm", safe_serialization=True)
    loaded = load_source(str(tmp_path / "timm"))
    assert (loaded.reference.loader, loaded.reference.architecture) == ("timm", "test_resnet")
    assert torch.equal(loaded.tensors["conv1.0.weight"], network(1).conv1[0].weight)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=5)
    native = ResNetForImageClassification(config)
    native.save_pretrained(tmp_path / "native")
    loaded = load_source(str(tmp_path / "native"))
    assert loaded.reference.loader == "transformers"
    assert all(torch.equal(tensor, loaded.tensors[name]) for name, tensor in native.state_dict().items())


def test_a_grey_timm_network_keeps_its_channel(tmp_path):
    grey = [network(seed, in_chans=1) for seed in range(2)]
    for index, source in enumerate(grey):
        config = {"model_args": {"in_chans": 1}}
        timm.models.save_for_hf(source, tmp_path / str(index), model_config=config, safe_serialization=True)
    for pair in (grey, [str(tmp_path / "0"), str(tmp_path / "1")]):
        model = MedMergeModel.from_sources(pair, num_labels=2)
        assert model(torch.zeros(1, 1, 32, 32)).logits.shape == (1, 2)


def test_a_transformers_checkpoint_with_missing_backbone_tensors_is_refused(tmp_path):
    native = ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=5))
    native.save_pretrained(tmp_path)
    tensors = {k: v for k, v in load_file(tmp_path / "model.safetensors").items() if "embedder" not in k}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArchitectureMismatchError, match=r"tensors are missing \(resnet\.embedder"):
        MedMergeModel.from_sources([str(tmp_path), native], num_labels=2)


@pytest.mark.parametrize("place", [0, 1])
def test_a_network_without_values_is_named(place):
    sources = [network(0), network(1)]
    sources[place].to("meta")
    with pytest.raises(SourceError, match="no values"):
        MedMergeModel.from_sources(sources, num_labels=2)


def test_another_architecture_is_refused_by_name():
    with pytest.raises(ArchitectureMismatchError, match=r"not the anchor's architecture test_resnet.*missing"):
        MedMergeModel.from_sources([network(0), network(1, "test_vit")], num_labels=2)


def test_another_width_is_refused_by_shape():
    wide = network(1).state_dict()
    wide["layer1.0.conv1.weight"] = torch.zeros(64, *wide["layer1.0.conv1.weight"].shape[1:])
    with pytest.raises(ArchitectureMismatchError, match=r"layer1\.0\.conv1\.weight is \[64, .*the anchor's \["):
        MedMergeModel.from_sources([network(0), as_module(wide)], num_labels=2)


def test_a_deeper_network_is_refused_and_not_cut():
    deep = network(1).state_dict()
    deep["layer1.7.conv1.weight"] = torch.zeros(3, 3, 1, 1)
    with pytest.raises(ArchitectureMismatchError, match=r"layer1\.7\.conv1\.weight.*nothing of it is dropped"):
        MedMergeModel.from_sources([network(0), as_module(deep)], num_labels=2)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_values_are_refused_by_tensor(value):
    tensors = network(1).state_dict()
    tensors["layer2.0.conv1.weight"][0, 0] = value
    with pytest.raises(NonFiniteSourceError, match=r"NaN or infinite values in layer2\.0\.conv1\.weight"):
        MedMergeModel.from_sources([network(0), as_module(tensors)], num_labels=2)


def test_quantised_weights_are_refused():
    tensors = network(1).state_dict()
    tensors["conv1.0.weight"] = tensors["conv1.0.weight"].to(torch.int8)
    with pytest.raises(CorruptSourceError, match=r"conv1\.0\.weight as torch\.int8.*quantised"):
        MedMergeModel.from_sources([network(0), as_module(tensors)], num_labels=2)


def test_the_same_weights_twice_are_refused(tmp_path):
    save_file(network(0).state_dict(), tmp_path / "copy.safetensors")
    with pytest.raises(DuplicateSourceError, match=r"Sources 0 .* and 1 .*copy\.safetensors.* hold the same weights"):
        MedMergeModel.from_sources([network(0), str(tmp_path / "copy.safetensors")], num_labels=2)


def test_two_copies_in_one_file_are_refused_as_ambiguous(tmp_path):
    state = network(1).state_dict()
    save_file(
        {f"{p}.{k}": v.clone() for p in ("net.left", "net.right") for k, v in state.items()},
        tmp_path / "a.safetensors",
    )
    with pytest.raises(ArchitectureMismatchError, match=r"entry='(left|right)'"):
        MedMergeModel.from_sources([network(0), str(tmp_path / "a.safetensors")], num_labels=2)


def test_half_precision_sources_are_merged_in_float32(tmp_path):
    half = {k: v.half() if v.is_floating_point() else v for k, v in network(1).state_dict().items()}
    save_file(half, tmp_path / "half.safetensors")
    model = MedMergeModel.from_sources([network(0), str(tmp_path / "half.safetensors")], num_labels=2, init=1.0)
    weight = model.plain_model().timm_model.conv1[0].weight
    assert weight.dtype == torch.float32
    assert torch.allclose(weight, half["conv1.0.weight"].float(), atol=1e-6)


def as_module(tensors):
    """A module with just this state dict."""

    class Holder(nn.Module):
        def state_dict(self, *args, **kwargs):
            return tensors

    return Holder()


def test_every_real_resnet18_checkpoint_is_read(real_data):
    folder = real_data / "checkpoints" / "resnet18"
    files = sorted(str(file) for file in folder.glob("*.safetensors"))
    model = MedMergeModel.from_sources(files, architecture="resnet18", num_labels=4)
    assert [json.dumps(source["loader"]) for source in model.config.sources] == ['"file"'] * len(files)
