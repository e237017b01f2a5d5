import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from medmerge_hf.errors import CorruptSourceError
from medmerge_hf.sources.load import read
from medmerge_hf.sources.readers.folder import check_folder
from medmerge_hf.sources.readers.index_file import shards_of
from medmerge_hf.sources.reference import SourceReference


TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16), "n": torch.tensor(3)}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(index=st.dictionaries(st.text(max_size=12), json_values, max_size=3) | json_values)
def test_any_json_is_an_index_or_refused(index, tmp_path_factory):
    file = tmp_path_factory.mktemp("index") / "model.safetensors.index.json"
    file.write_text(json.dumps(index))
    with pytest.raises(CorruptSourceError):
        shards_of(file)


@pytest.mark.parametrize(
    "shard", ["../a.safetensors", "/etc/passwd", "sub/a.safetensors", "..\\a", "a\0.safetensors", 3]
)
def test_an_index_cannot_lead_out_of_its_folder(shard, tmp_path):
    save_file(TENSORS, tmp_path / "a.safetensors")
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a.weight": shard}}))
    with pytest.raises(CorruptSourceError, match="does not lie beside it"):
        check_folder(inner)


def test_shards_are_read_through_their_index(tmp_path):
    for number, name in enumerate(TENSORS):
        save_file({name: TENSORS[name]}, tmp_path / f"part{number}.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {k: f"part{i}.safetensors" for i, k in enumerate(TENSORS)}}))
    found = read(index, SourceReference(str(index))).tensors
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    assert len(found) == len(TENSORS)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_name_in_two_shards_is_refused(suffix, tmp_path):
    for name in ("one", "two"):
        file = tmp_path / f"{name}{suffix}"
        save_file(TENSORS, file) if suffix == ".safetensors" else torch.save(TENSORS, file)
    index = tmp_path / f"model{suffix}.index.json"
    index.write_text(json.dumps({"weight_map": {"a.weight": f"one{suffix}", "b": f"two{suffix}"}}))
    with pytest.raises(CorruptSourceError, match="stands in 'two"):
        read(index, SourceReference(str(index)))
