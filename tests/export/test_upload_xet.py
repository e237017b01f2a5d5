"""The client's default way for large files. The switch that the server rests on is not documented."""

import os
import subprocess
import sys

import pytest
from tiny import network
from xet_server import XetHub

from medmerge_hf import MedMergeModel


CLIENT = """
import sys, torch
from huggingface_hub import constants
assert not constants.HF_HUB_DISABLE_XET
from medmerge_hf import MedMergeModel
model = MedMergeModel.from_pretrained(sys.argv[1])
model.push_to_hub("tester/merged", commit_message="Over Xet")
again = MedMergeModel.from_pretrained("tester/merged")
images = torch.rand(1, 3, 32, 32)
with torch.no_grad():
    assert torch.equal(again(images).logits, model(images).logits)
assert again.kernel_weights().equals(model.kernel_weights())
model.push_to_hub("tester/merged", commit_message="The same again")
"""


@pytest.mark.slow
def test_push_and_pull_with_xet(tmp_path):
    pytest.importorskip("hf_xet")
    model = MedMergeModel.from_sources([network(0), network(1)], num_labels=3, image_size=32, init=0.3)
    model.save_pretrained(tmp_path / "export")
    hub = XetHub(tmp_path / "store")
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    del environment["HF_HUB_DISABLE_XET"]
    command = [sys.executable, "-c", CLIENT, str(tmp_path / "export")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    repo = hub.repos["models", "tester/merged"]
    assert [commit.title for commit in repo.commits] == ["initial commit", "Over Xet"]
    stored = hub.xet_files()
    for path in ("model.safetensors", "medmerge/state.safetensors"):
        assert stored[hub.listing("tester/merged")[path]][1] == (tmp_path / "export" / path).stat().st_size
    assert not any(path.startswith("/_lfs") or path.endswith("/batch") for _, path in hub.requests)
