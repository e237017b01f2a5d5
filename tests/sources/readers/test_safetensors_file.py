import json
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save, save_file

from medmerge_hf.errors import CorruptSourceError
from medmerge_hf.sources.load import read
from medmerge_hf.sources.readers.safetensors_file import read_header
from medmerge_hf.sources.reference import SourceReference


TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16), "n": torch.tensor(3)}


def tensors_of(file, weights=True):
    return read(file, SourceReference(str(file)), weights).tensors


def write(file, header, content=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + content)
    return file


def entry(begin, end, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_a_header_tells_names_shapes_dtypes_and_metadata(tmp_path):
    save_file(TENSORS, tmp_path / "a.safetensors", metadata={"trained_on": "fundus"})
    found, metadata = read_header(tmp_path / "a.safetensors")
    assert {k: (t.shape, t.dtype) for k, t in found.items()} == {k: (t.shape, t.dtype) for k, t in TENSORS.items()}
    assert all(tensor.is_meta for tensor in found.values())
    assert metadata == {"trained_on": "fundus"}


BROKEN = {
    "longer than the file": (struct.pack("<Q", 2**62) + b"{}", "header too large"),
    "overlap": ({"a": entry(0, 4), "b": entry(2, 6)}, "invalid offset"),
    "gap": ({"a": entry(0, 4), "b": entry(8, 12)}, "invalid offset"),
    "past the end": ({"a": entry(0, 400, [100])}, "not fully covered"),
    "absurd size": ({"a": entry(0, 4, [2**62])}, "overflow"),
    "negative shape": ({"a": entry(0, 4, [-1])}, "-1"),
    "no numbers": ({"a": entry(0, 4, ["1"])}, "invalid type"),
    "unknown dtype": ({"a": entry(0, 4, [1], "F31")}, "F31"),
    "a dtype of no tensor": ({"a": entry(0, 4, [8], "F4")}, "F4"),
    "twice": (b'{"a": %s, "a": %s}' % ((json.dumps(entry(0, 4)).encode(),) * 2), "'a' stands twice"),
    "a list": (b"[]", "invalid type"),
    "no JSON": (b"\xff\xfe{", "UTF-8"),
    "left over": ({"a": entry(0, 2, [2], "I8")}, "not fully covered"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("weights", [True, False])
def test_a_header_that_the_format_does_not_allow_is_refused(name, weights, tmp_path):
    header, message = BROKEN[name]
    file = tmp_path / "a.safetensors"
    if name == "longer than the file":
        file.write_bytes(header)
    else:
        write(file, header, b"\0" * 4)
    with pytest.raises(CorruptSourceError, match=message):
        tensors_of(file, weights)


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, 10_000), replacement=st.binary(min_size=1, max_size=4))
def test_damaged_files_are_read_exactly_as_safetensors_does_or_refused(position, replacement, tmp_path_factory):
    good = save(TENSORS)
    place = position % len(good)
    damaged = good[:place] + replacement + good[place + len(replacement) :]
    file = tmp_path_factory.mktemp("fuzz") / "a.safetensors"
    file.write_bytes(damaged)
    try:
        found = tensors_of(file)
    except CorruptSourceError:
        return
    theirs = load(damaged)
    assert found.keys() == theirs.keys()
    assert all(torch.equal(found[k].view(torch.uint8), theirs[k].view(torch.uint8)) for k in found if found[k].ndim)
