import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
from tiny import network

import medmerge_hf


ROOT = Path(__file__).parents[1]


def test_import_is_lazy():
    heavy = ("torch", "timm", "transformers", "datasets")
    script = f"import sys, medmerge_hf; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("name", [name for name in medmerge_hf.__all__ if name != "__version__"])
def test_every_public_name_resolves_and_is_documented(name):
    assert getattr(medmerge_hf, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing"):
        _ = medmerge_hf.nothing


def test_every_file_of_the_package_goes_into_a_wheel():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = setup["options.package_data"]["medmerge_hf"].split()
    package = ROOT / "medmerge_hf"
    files = [file for file in package.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    others = {file for file in files if file.suffix != ".py" or not (file.parent / "__init__.py").is_file()}
    assert others == {file for pattern in patterns for file in package.glob(pattern)}


@pytest.mark.slow
def test_a_wheel_works_without_the_clone(tmp_path):
    clone, place = tmp_path / "clone", tmp_path / "site"
    shutil.copytree(ROOT / "medmerge_hf", clone / "medmerge_hf", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", clone, "-w", tmp_path, "--no-deps", "--no-build-isolation"], check=True)
    [wheel] = tmp_path.glob("*.whl")
    subprocess.run([*pip, "install", wheel, "--no-deps", "--no-index", "--target", place], check=True)
    shutil.rmtree(clone)

    def run(*words):
        environment = {**os.environ, "PYTHONPATH": str(place)}
        return subprocess.run(words, capture_output=True, text=True, env=environment, cwd=tmp_path, check=True).stdout

    for seed in range(2):
        timm.models.save_for_hf(network(seed), tmp_path / str(seed), safe_serialization=True)
    assert str(place) in run(sys.executable, "-c", "import medmerge_hf; print(medmerge_hf.__file__)")
    assert '"ok": true' in run(str(place / "bin" / "medmerge"), "inspect", "0", "1", "--json")
    assert "--image_size" in run(sys.executable, "-m", "medmerge_hf.cli", "train", "--help")
    templates = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "medmerge_hf").rglob("*.jinja"))
    assert templates
    assert all((place / name).is_file() for name in templates)


@pytest.mark.slow
def test_a_consumers_type_checker_sees_our_types(tmp_path):
    code = tmp_path / "consumer.py"
    code.write_text(
        "from medmerge_hf import MedMergeModel, load_target\n"
        "def use(model: MedMergeModel) -> None:\n"
        "    reveal_type(model.collapse())\n"
        "    reveal_type(load_target('images').classes)\n"
        "    model.collapse(batchez=None)\n"
    )
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", "--ignore-missing-imports", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert 'Revealed type is "medmerge_hf.modeling_medmerge.MedMergeModel"' in done.stdout
    assert "list[str]" in done.stdout
    assert 'Unexpected keyword argument "batchez"' in done.stdout
