import json
import struct
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save, save_file

from medmerge_hf.errors import CorruptSourceError
from medmerge_hf.sources.checkpoint_file import check_folder, check_header, read_checkpoint, read_header, read_index


TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16), "n": torch.tensor(3)}


def write(file, header, content=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + content)
    return file


def entry(begin, end, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_a_header_tells_names_shapes_dtypes_and_metadata(tmp_path):
    save_file(TENSORS, tmp_path / "a.safetensors", metadata={"trained_on": "fundus"})
    found = read_header(tmp_path / "a.safetensors")
    assert {k: (t.shape, t.dtype) for k, t in found.tensors.items()} == {
        k: (t.shape, t.dtype) for k, t in TENSORS.items()
    }
    assert all(tensor.is_meta for tensor in found.tensors.values())
    assert found.metadata == {"trained_on": "fundus"}


BROKEN = {
    "longer than the file": (b"{}", struct.pack("<Q", 2**62) + b"{}", "bytes long"),
    "overlap": ({"a": entry(0, 4), "b": entry(2, 6)}, b"\0" * 6, "overlaps"),
    "gap": ({"a": entry(0, 4), "b": entry(8, 12)}, b"\0" * 12, "gap after"),
    "past the end": ({"a": entry(0, 400, [100])}, b"\0" * 8, "does not fit"),
    "absurd size": ({"a": entry(0, 4, [2**62])}, b"\0" * 4, "does not fit"),
    "negative shape": ({"a": entry(0, 4, [-1])}, b"\0" * 4, r"shape \[-1\]"),
    "no numbers": ({"a": entry(0, 4, ["1"])}, b"\0" * 4, "shape"),
    "unknown dtype": ({"a": entry(0, 4, [1], "F31")}, b"\0" * 4, "describes 'a'"),
    "twice": (b'{"a": {}, "a": {}}', b"", "stands twice"),
    "a list": (b"[]", b"", "no JSON object"),
    "no JSON": (b"\xff\xfe{", b"", "no JSON"),
    "left over": ({"a": entry(0, 4)}, b"\0" * 8, "tells of 4"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_header_that_the_format_does_not_allow_is_refused(name, tmp_path):
    header, content, message = BROKEN[name]
    file = tmp_path / "a.safetensors"
    if name == "longer than the file":
        file.write_bytes(content)
    else:
        write(file, header, content)
    with pytest.raises(CorruptSourceError, match=message):
        read_checkpoint(str(file))


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, 10_000), replacement=st.binary(min_size=1, max_size=4))
def test_damaged_files_are_read_exactly_as_safetensors_does_or_refused(position, replacement, tmp_path_factory):
    good = save(TENSORS)
    place = position % len(good)
    damaged = good[:place] + replacement + good[place + len(replacement) :]
    file = tmp_path_factory.mktemp("fuzz") / "a.safetensors"
    file.write_bytes(damaged)
    try:
        found = read_checkpoint(str(file))
    except CorruptSourceError:
        return
    theirs = load(damaged)
    assert found.keys() == theirs.keys()
    assert all(torch.equal(found[k].view(torch.uint8), theirs[k].view(torch.uint8)) for k in found if found[k].ndim)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)
entries = st.fixed_dictionaries({"dtype": st.sampled_from(["F32", "I64", "X"]), "shape": json_values}) | json_values


@settings(max_examples=200, deadline=None)
@given(header=st.dictionaries(st.text(max_size=5), entries, max_size=4), size=st.integers(0, 100))
def test_any_json_is_a_header_or_refused(header, size):
    try:
        found = check_header("a", header, size)
    except CorruptSourceError:
        return
    assert sum(tensor.numel() * tensor.dtype.itemsize for tensor in found.tensors.values()) == size


@settings(max_examples=200, deadline=None)
@given(index=st.dictionaries(st.text(max_size=12), json_values, max_size=3) | json_values)
def test_any_json_is_an_index_or_refused(index, tmp_path_factory):
    file = tmp_path_factory.mktemp("index") / "model.safetensors.index.json"
    file.write_text(json.dumps(index))
    with pytest.raises(CorruptSourceError):
        read_index(file)


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
    found = read_checkpoint(str(index))
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    assert len(found) == len(TENSORS)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    file = tmp_path / "bomb.pth"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 200_000_000)
    assert file.stat().st_size < 1_000_000
    with pytest.raises(CorruptSourceError, match="zip bomb"):
        read_checkpoint(str(file))


@pytest.mark.parametrize("legacy", [False, True])
def test_the_names_in_a_pickle_are_read_without_its_weights(tmp_path, legacy):
    torch.save({"state_dict": TENSORS}, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    found = read_checkpoint(str(tmp_path / "a.pth"), weights=False)
    assert {k: tuple(t.shape) for k, t in found.items()} == {k: tuple(t.shape) for k, t in TENSORS.items()}
    assert all(tensor.is_meta for tensor in found.values())
