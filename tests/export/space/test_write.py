import ast
import json
import re
import sys

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny import network

from medmerge_hf import MedMergeModel
from medmerge_hf.cli import main
from medmerge_hf.errors import (
    CorruptSourceError,
    DataError,
    OutputDirError,
    SettingsError,
    SourceNotFoundError,
    StateError,
)
from medmerge_hf.export.space.write import make_space
from medmerge_hf.export.upload import push_export


APP = ["README.md", "app.py", "classifier.py", "heat_map.py", "requirements.txt", "space.json"]


def files_of(folder):
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def front_matter(text):
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, flags=re.S)[1])


def test_the_folder_holds_the_app_the_export_and_the_examples(exports, photograph, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["space", str(exports / "resnet"), str(tmp_path / "out"), "--examples", str(photograph)])
    assert caught.value.code == 0
    assert f"python {tmp_path / 'out'}/app.py" in capsys.readouterr().out
    found = files_of(tmp_path / "out")
    assert [file for file in found if "/" not in file] == APP
    assert {file for file in found if file.startswith("model/")} == {
        f"model/{file}" for file in files_of(exports / "resnet")
    }
    assert [file for file in found if file.startswith("examples/")] == ["examples/1.png"]
    assert (tmp_path / "out" / "model" / "README.md").read_text() == (exports / "resnet" / "README.md").read_text()


def test_the_hub_is_told_how_to_run_it(exports, tmp_path):
    for name in ("resnet", "native"):
        make_space(str(exports / name), tmp_path / name)
        header = front_matter((tmp_path / name / "README.md").read_text())
        needed = (tmp_path / name / "requirements.txt").read_text().split()
        assert (header["sdk"], header["app_file"], header["title"]) == ("gradio", "app.py", name)
        assert f"gradio>={header['sdk_version']},<7" in needed
        assert len(header["short_description"]) <= 60  # the Hub takes no more
        assert any(line.startswith("timm") for line in needed) == (name == "resnet")
        assert not any("medmerge" in line for line in needed)


def test_what_runs_there_needs_what_it_says_and_not_this_package(exports, tmp_path):
    make_space(str(exports / "native"), tmp_path / "out")
    trees = [ast.parse(file.read_text()) for file in (tmp_path / "out").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    roots = (
        {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"classifier", "heat_map", "reading"}
    )
    needed = re.findall(r"^[\w-]+", (tmp_path / "out" / "requirements.txt").read_text(), flags=re.M)
    assert {"torch", "transformers", "gradio"} <= roots
    assert {"pillow" if name == "PIL" else name for name in roots} <= set(needed)


def test_examples_are_pixels_without_names_and_metadata(exports, photograph, tmp_path):
    make_space(str(exports / "resnet"), tmp_path / "out", [photograph])
    file = tmp_path / "out" / "examples" / "1.png"
    assert np.array_equal(np.asarray(Image.open(file)), np.asarray(Image.open(photograph)))
    assert b"Jane Doe" in photograph.read_bytes()
    assert all(b"Jane Doe" not in (tmp_path / "out" / each).read_bytes() for each in files_of(tmp_path / "out"))
    assert Image.open(file).info == {}


def test_the_window_of_the_training_goes_along(tmp_path):
    model = MedMergeModel.from_sources([network(0), network(1)], num_labels=2, image_size=32)
    rule = {"mode": "L", "black": 0, "white": 255, "dicom_images": 8, "dicom_window": [40, 400]}
    model.config.record = {"data": {"name": "ct", "pixel_rule": rule, "splits": {}, "images": {}}}
    model.save_pretrained(tmp_path / "export")
    make_space(str(tmp_path / "export"), tmp_path / "out", threshold=0.9)
    settings = json.loads((tmp_path / "out" / "space.json").read_text())
    assert (settings["window"], settings["black"], settings["threshold"]) == ([40, 400], None, 0.9)


def test_a_push_is_one_commit_of_a_space_and_leaves_what_others_put_there(hub, exports, photograph, tmp_path):
    address = make_space(str(exports / "resnet"), tmp_path / "one", [photograph, photograph], push="tester/try")
    repo = hub.repos["spaces", "tester/try"]
    assert address == f"{hub.url}/spaces/tester/try"
    assert len(repo.commits) == 2  # that which made the repository, and this
    assert sorted(hub.listing("tester/try", "spaces")) == [".gitattributes", *files_of(tmp_path / "one")]
    hub.commit(repo, "notes", {**hub.listing("tester/try", "spaces"), "notes.txt": hub.store(b"mine")})
    make_space(str(exports / "native"), tmp_path / "two", [photograph], push="tester/try")
    expected = [".gitattributes", *files_of(tmp_path / "two"), "notes.txt"]
    assert sorted(hub.listing("tester/try", "spaces")) == sorted(expected)
    assert len(repo.commits) == 4


def test_a_private_space_is_private(hub, exports, tmp_path):
    make_space(str(exports / "resnet"), tmp_path / "out", push="tester/own", private=True)
    assert hub.repos["spaces", "tester/own"].private


def test_an_export_on_the_hub_is_loaded_from_there(hub, exports, load, photograph, tmp_path):
    push_export(exports / "resnet", "tester/merged")
    make_space("tester/merged", tmp_path / "out")
    push_export(exports / "native", "tester/merged")  # the page stays with the commit that it was made for
    assert [file for file in files_of(tmp_path / "out") if file.startswith("model/")] == [
        "model/README.md",
        "model/medmerge/kernel_weights.png",
    ]
    assert front_matter((tmp_path / "out" / "README.md").read_text())["models"] == ["tester/merged"]
    classifier = load(tmp_path / "out")
    assert classifier.model.config.model_type == "timm_wrapper"
    assert set(classifier(classifier.read(photograph)).probabilities) == {"benign", "malignant", "normal"}


def test_nobody_is_logged_in(hub, exports, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(SettingsError, match=r"tester/try was not pushed: nobody is logged in.*hf auth login"):
        make_space(str(exports / "resnet"), tmp_path / "out", push="tester/try")
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    make_space(str(exports / "resnet"), tmp_path / "out", push="tester/try")  # what the message says works
    assert ("spaces", "tester/try") in hub.repos


@pytest.mark.parametrize(("status", "said"), [("403", "the token may not write there"), ("500", "did not take it")])
def test_a_hub_that_refuses_leaves_nothing_behind(hub, exports, tmp_path, monkeypatch, status, said):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # before the client tries again
    hub.fault = lambda index, method, path: status if method == "POST" and path.endswith("/main") else None
    with pytest.raises(SettingsError, match=said):
        make_space(str(exports / "resnet"), tmp_path / "out", push="tester/try")
    assert list(tmp_path.iterdir()) == []


def test_what_lies_in_the_folder_stays(exports, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputDirError, match="is not empty: name another folder"):
        make_space(str(exports / "resnet"), tmp_path)
    assert files_of(tmp_path) == ["notes.txt"]


def test_what_is_no_export_is_refused(exports, tmp_path, hub):
    (tmp_path / "empty").mkdir()
    network_alone = tmp_path / "plain"
    MedMergeModel.from_pretrained(exports / "native").plain_model().save_pretrained(network_alone)
    model = MedMergeModel.from_sources([str(exports / "source0"), str(exports / "source1")], num_labels=2)
    model.save_pretrained(tmp_path / "checkpoint", collapse=False)
    for name, error, said in (
        ("empty", CorruptSourceError, "holds no config.json"),
        ("plain", StateError, "not exported by medmerge_hf"),
        ("checkpoint", StateError, "a checkpoint to train on, no export"),
        ("missing", SourceNotFoundError, "missing"),
    ):
        with pytest.raises(error, match=said):
            make_space(str(tmp_path / name), tmp_path / "out")
    MedMergeModel.from_pretrained(str(tmp_path / "checkpoint")).save_pretrained(tmp_path / "merged")
    make_space(str(tmp_path / "merged"), tmp_path / "out")  # what the message says works
    assert (tmp_path / "out" / "app.py").is_file()


def test_an_export_without_preprocessing_cannot_be_shown(exports, tmp_path):
    model = MedMergeModel.from_pretrained(exports / "native")
    model.image_processor = None
    model.save_pretrained(tmp_path / "export")
    with pytest.raises(SettingsError, match=r"preprocessor_config\.json"):
        make_space(str(tmp_path / "export"), tmp_path / "out")


def test_an_example_that_cannot_be_read_is_named(exports, photograph, tmp_path):
    (tmp_path / "broken.png").write_bytes(photograph.read_bytes()[:300])
    with pytest.raises(DataError, match=r"broken\.png cannot be read"):
        make_space(str(exports / "resnet"), tmp_path / "out", [photograph, tmp_path / "broken.png"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [{"threshold": 0.4}, {"threshold": 1.1}, {"private": True}])
def test_settings_that_say_nothing_are_refused(exports, tmp_path, wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        make_space(str(exports / "resnet"), tmp_path / "out", **wrong)
