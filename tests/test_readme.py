"""The code of README and guides runs as it stands, on tiny networks that carry the names it uses."""

import re
import shutil
from pathlib import Path

import links
import pytest
import timm
import yaml
from huggingface_hub import HfApi
from safetensors.torch import save_file
from tiny import network

import medmerge_hf


ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
GUIDES = sorted((ROOT / "docs").glob("*.md"))
PAGES = sorted([*ROOT.glob("*.md"), *GUIDES, *(ROOT / "benchmarks").glob("*.md")])


def prose(page):
    """What stands in a page outside of its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)


def links_of(page):
    """Targets of links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def anchors_of(page):
    """What headings are called in a link, by GitHub and by the site alike."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.M)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def wrong_link(link, page):
    """Why a link of a page leads nowhere, or `None`."""
    if "://" in link:
        return links.wrong_address(link)
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    if not target.is_file():
        return "no such file"
    return "no such heading" if anchor and anchor not in anchors_of(target) else None


def test_every_python_block_runs_in_order(hub, vessels, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    timm.models.push_to_hf_hub(network(0), "timm/resnet50.a1_in1k", safe_serialization=True)
    timm.models.push_to_hf_hub(network(1), "me/resnet50-fundus", safe_serialization=True)
    save_file(network(2).state_dict(), "radimagenet.safetensors")
    HfApi().create_repo("lab/xray")
    HfApi().upload_file(path_or_fileobj="radimagenet.safetensors", path_in_repo="net.safetensors", repo_id="lab/xray")
    shutil.copytree(vessels, tmp_path / "path" / "to" / "images")
    shutil.copytree(vessels, tmp_path / "demo" / "synthetic" / "vessels")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "first").symlink_to(tmp_path / "merged")  # what the page Start has trained by then
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page):
    for link in links_of(page):
        assert wrong_link(link, page) is None, link


def test_a_wrong_file_anchor_or_address_is_found(tmp_path):
    (tmp_path / "other.md").write_text("# Other\n\n## `method: auto`, and more\n\n```bash\n# no heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text("# Here\n")
    right = ["other.md", "#here", "other.md#method-auto-and-more", "https://arxiv.org/abs/2403.11646"]
    assert [wrong_link(link, page) for link in right] == [None] * 4
    wrong = [
        "gone.md",
        "#there",
        "other.md#no-heading",
        "http://arxiv.org",
        "https://example.test/simple",
        "https://arxiv.org/x.",
    ]
    assert None not in [wrong_link(link, page) for link in wrong]


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
