import json

import pytest
import timm
import torch
from huggingface_hub import HfApi
from safetensors.torch import save_file
from tiny import network

from medmerge_hf.errors import CorruptSourceError
from medmerge_hf.sources.describe import describe


def upload(repo, folder):
    api = HfApi()
    api.create_repo(repo)
    api.upload_folder(repo_id=repo, folder_path=folder)


def bytes_of(hub, call):
    before, requests = hub.bytes_sent, len(hub.requests)
    call()
    return hub.bytes_sent - before, hub.requests[requests:]


def test_a_header_on_the_hub_costs_no_more_than_the_clients_own_function(hub, tmp_path):
    model = timm.create_model("resnet18", num_classes=10)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    upload("tester/resnet18", tmp_path)
    revision = HfApi().model_info("tester/resnet18").sha
    theirs, _ = bytes_of(hub, lambda: HfApi().get_safetensors_metadata("tester/resnet18", revision=revision))
    ours, requests = bytes_of(hub, lambda: describe({"id": "tester/resnet18", "revision": revision}))
    assert [method for method, path in requests if path.endswith(".safetensors")] == ["GET"]
    assert theirs <= 100_001
    assert ours <= theirs + 4_000  # config.json, the list of files


def test_a_header_on_the_hub_that_makes_no_sense_is_refused(hub, tmp_path):
    timm.models.save_for_hf(network(0), tmp_path, safe_serialization=True)
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    for name, change in {
        "far": {"data_offsets": [0, 10**15]},
        "odd": {"dtype": "F31"},
        "below": {"shape": [-3]},
    }.items():
        text = json.dumps(header | {"conv1.0.weight": header["conv1.0.weight"] | change}).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])
        upload(f"tester/{name}", tmp_path)
        with pytest.raises(CorruptSourceError, match=f"tester/{name}.*header"):
            describe(f"tester/{name}")


def test_shards_on_the_hub_are_read_by_their_headers(hub, tmp_path):
    timm.models.save_for_hf(network(0), tmp_path, safe_serialization=True)
    tensors = network(0).state_dict()
    (tmp_path / "model.safetensors").unlink()
    names = {name: f"part{index % 2}.safetensors" for index, name in enumerate(tensors)}
    for part in set(names.values()):
        save_file({name: tensors[name] for name in tensors if names[name] == part}, tmp_path / part)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    upload("tester/shards", tmp_path)
    found = describe("tester/shards")
    assert found.source.tensors.keys() == tensors.keys()
    assert found.bytes == sum((tmp_path / part).stat().st_size for part in set(names.values()))
    assert describe(str(tmp_path)).source.tensors.keys() == tensors.keys()


def test_a_description_holds_no_weights(tmp_path):
    torch.save(network(0).state_dict(), tmp_path / "a.pth")
    assert all(tensor.is_meta for tensor in describe(str(tmp_path / "a.pth")).source.tensors.values())
    assert all(tensor.is_meta for tensor in describe(network(0)).source.tensors.values())
