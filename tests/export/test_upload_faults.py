"""Connections that break at every request in turn, while an export goes up or comes down."""

import copy
import shutil

import pytest
import torch
from tiny import network

from medmerge_hf import MedMergeModel
from medmerge_hf.export.upload import push_export


@pytest.fixture
def exports(tmp_path):
    """Two exports of one merge, with other weights."""
    torch.manual_seed(0)
    model = MedMergeModel.from_sources([network(0), network(1)], num_labels=3, image_size=32)
    for name, init in (("first", 0.0), ("second", 0.5)):
        torch.nn.init.constant_(model.merge.source_bias, init)
        model.save_pretrained(tmp_path / name)
    return tmp_path


def requests_of(hub, action):
    """How many requests an action makes."""
    hub.reset()
    action()
    count = len(hub.requests)
    assert count > 4
    return count


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """The client waits a second before it tries again."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def cut(at, how):
    return lambda index, method, path: how if index == at else None


@pytest.mark.parametrize("how", ["cut", "cut_body", "500"])
def test_a_push_that_breaks_off_leaves_all_or_nothing_and_succeeds_the_second_time(hub, exports, how):
    hub.blobs.clear()
    push_export(exports / "first", "tester/merged")
    before, state = hub.listing("tester/merged"), copy.deepcopy((hub.repos, hub.blobs))
    count = requests_of(hub, lambda: push_export(exports / "second", "tester/merged"))
    after = hub.listing("tester/merged")
    changed = {path for path in after if after[path] != before[path]}
    assert changed > {"model.safetensors", "medmerge/state.safetensors"}
    outcomes = {"done": 0, "failed": 0}
    for at in range(count):
        hub.repos, hub.blobs = copy.deepcopy(state)  # it has the first export and has never seen the second
        hub.reset()
        hub.fault = cut(at, how)
        try:
            push_export(exports / "second", "tester/merged")
        except Exception:
            outcomes["failed"] += 1
            answer_lost = how == "cut_body" and hub.requests[-1][1].endswith("/commit/main")
            expected = after if answer_lost else before
        else:
            outcomes["done"] += 1
            expected = after
        assert hub.listing("tester/merged") == expected
        assert len(hub.requests) > at
        hub.reset()
        push_export(exports / "second", "tester/merged")
        assert hub.listing("tester/merged") == after
        assert len(hub.repos["models", "tester/merged"].commits) == 3
    print(f"push, {how} at each of {count} requests: {outcomes}")


@pytest.mark.parametrize("how", ["cut", "cut_body", "500"])
def test_a_pull_that_breaks_off_leaves_no_broken_file_and_succeeds_the_second_time(hub, exports, tmp_path, how):
    push_export(exports / "first", "tester/merged")
    listing = hub.listing("tester/merged")
    count = requests_of(hub, lambda: MedMergeModel.from_pretrained("tester/merged", cache_dir=tmp_path / "count"))
    outcomes = {"done": 0, "failed": 0}
    for at in range(count):
        cache = tmp_path / f"cache{at}"
        hub.reset()
        hub.fault = cut(at, how)
        try:
            MedMergeModel.from_pretrained("tester/merged", cache_dir=cache)
            outcomes["done"] += 1
        except Exception:
            outcomes["failed"] += 1
        for file in cache.glob("*/snapshots/*/**/*"):
            if file.is_file():
                path = file.relative_to(file.parents[len(file.relative_to(cache).parts) - 4]).as_posix()
                assert hub.store(file.read_bytes()) == listing[path]
        hub.reset()
        assert not MedMergeModel.from_pretrained("tester/merged", cache_dir=cache).merging
        shutil.rmtree(cache)
    print(f"pull, {how} at each of {count} requests: {outcomes}")
