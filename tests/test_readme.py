"""The code of README and guides runs as it stands, on tiny networks that carry the names it uses."""

import re
import shutil
from pathlib import Path

import pytest
import timm
import yaml
from huggingface_hub import HfApi
from safetensors.torch import save_file
from tiny import network

import medmerge_hf


README = Path(__file__).parents[1] / "README.md"
GUIDES = sorted((README.parent / "docs").glob("*.md"))


def test_every_python_block_runs_in_order(hub, vessels, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    timm.models.push_to_hf_hub(network(0), "timm/resnet50.a1_in1k", safe_serialization=True)
    timm.models.push_to_hf_hub(network(1), "me/resnet50-fundus", safe_serialization=True)
    save_file(network(2).state_dict(), "radimagenet.safetensors")
    HfApi().create_repo("lab/xray")
    HfApi().upload_file(path_or_fileobj="radimagenet.safetensors", path_in_repo="net.safetensors", repo_id="lab/xray")
    shutil.copytree(vessels, tmp_path / "path" / "to" / "images")
    names: dict = {}
    for page in (README, *GUIDES):
        blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S)
        assert len(blocks) >= 2 or page != README
        for block in blocks:
            exec(compile(block, str(page), "exec"), names)
    assert not names["model"].merging
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    printed = capsys.readouterr().out
    assert "eval_macro_f1" in printed
    assert '"ok": true' in printed


@pytest.mark.parametrize("page", [README, *GUIDES], ids=lambda page: page.name)
def test_links_and_pictures_exist(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).is_file()] == []


def test_the_readme_is_read_in_a_minute():
    assert len(README.read_text().splitlines()) <= 90


def test_every_public_name_stands_in_the_reference():
    pages = "".join(page.read_text() for page in (README.parent / "docs" / "api").glob("*.md"))
    shown = {line.rsplit(".", 1)[-1] for line in pages.splitlines() if line.startswith("::: ")}
    assert set(medmerge_hf.__all__) - {"__version__"} <= shown


def test_every_guide_is_a_page_of_the_site():
    site = yaml.safe_load((README.parent / "mkdocs.yml").read_text())
    pages = re.findall(r"[\w/]+\.md", str(site["nav"]))
    files = [README.parent / page for page in pages]
    assert [file for file in files if not (file.is_file() or file.with_suffix(".ipynb").is_file())] == []
    assert {f"docs/{guide.name}" for guide in GUIDES} <= set(pages)


def test_its_commands_are_targets_of_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", (README.parent / "Makefile").read_text(), flags=re.M))
    assert set(re.findall(r"`?make ([a-z-]+)", README.read_text())) <= targets
