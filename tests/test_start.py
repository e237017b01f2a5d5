"""The page Start, typed as it stands: every command, what it prints, and what anybody then loads."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]

BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "docs" / "start.md").read_text(), flags=re.M | re.S)

INSTALL = ("python3 -m venv", ". .venv", "pip install")


def words_of(command):
    """A line of the page for this environment, where `medmerge` may lie on no path."""
    first, *rest = shlex.split(command)
    return {"medmerge": [sys.executable, "-m", "medmerge_hf.cli"], "python": [sys.executable]}[first] + rest


def shape(text):
    """Lines without what hangs on the machine: figures, the width of columns, which source is the better one."""
    varies = r"[+-]?\d+(\.\d+)?|-{2,}|\b(cells|projections)\b| +"
    return {re.sub(r" +", " ", re.sub(varies, " ", line)).strip() for line in text.strip().splitlines()}


@pytest.mark.slow
def test_every_step_works_and_prints_what_the_page_shows(hub, tmp_path):
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    printed = ""
    for language, block in BLOCKS:
        if language == "yaml":
            (tmp_path / "config.yaml").write_text(block)
        elif language == "text":
            assert shape(block) <= shape(printed)
        else:
            lines = [line for line in block.splitlines() if language == "bash" and not line.startswith(INSTALL)]
            commands = [[sys.executable, "-c", block]] if language == "python" else map(words_of, lines)
            for command in commands:
                done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
                assert done.returncode == 0, done.stderr
                printed = done.stdout
    assert {"model.safetensors", "README.md", "report.html"} <= set(hub.listing("me/vessels-merged"))
