import os
import resource
import signal
import subprocess
import sys
import time

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from tiny import network

from medmerge_hf.cli import main, no_room
from medmerge_hf.errors import SettingsError


COMMANDS = ("train", "compare", "rank", "inspect", "space")


def ended(words):
    with pytest.raises(SystemExit) as caught:
        main(words)
    return caught.value.code


def test_help_says_a_line_a_command_and_loads_nothing_heavy():
    script = "import sys\nfrom medmerge_hf.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    script += "print({'torch', 'numpy', 'transformers', 'yaml', 'rich'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    *lines, heavy = done.stdout.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("    ")] == list(COMMANDS)
    assert heavy == "set()"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_its_options(command, capsys):
    assert ended([command, "--help"]) == 0
    printed = capsys.readouterr().out
    wanted = {"compare": "--trials VALUE", "inspect": "--architecture", "space": "--examples IMG"}
    assert wanted.get(command, "--image_size VALUE") in printed
    assert printed.startswith(f"usage: medmerge {command}")


def test_ranges_and_defaults_stand_in_the_help(capsys):
    ended(["train", "CONFIG.yaml", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert "(above 0 and at most 1; default 0.5 1.0)" in words
    assert "(model, layer, filter, kernel, element; default filter)" in words
    assert "--merge.NAME VALUE" in words


@pytest.mark.parametrize("words", [[], ["trian"], ["inspect"]])
def test_a_wrong_command_ends_with_2(words, capsys):
    assert ended(words) == 2
    assert "usage: medmerge" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "text", "said"),
    [
        ("train", "merge: 3", "merge=3: expected a mapping"),
        ("compare", "seeds: [x]", "seeds=['x']: expected a list of whole numbers"),
    ],
)
def test_wrong_options_end_in_a_line_each(command, text, said, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    found = ended([command, str(tmp_path / "config.yaml")])
    assert found.startswith("SettingsError: ")
    assert said in found
    assert ended([command, "nowhere.yaml"]).startswith("SettingsError: Config 'nowhere.yaml' cannot be read")


def test_an_error_that_nobody_foresaw_is_a_traceback(monkeypatch, tmp_path):
    monkeypatch.setattr("medmerge_hf.runs.train.main", lambda words: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["train"])


def test_a_file_that_is_cut_off_is_known_whichever_library_wrote_it(tmp_path):
    tensor = {"tensor": torch.zeros(100_000)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    found = []
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        for write in (torch.save, save_file, lambda _, file: file.write_bytes(bytes(2000))):
            with pytest.raises(Exception) as caught:  # noqa: PT011  (each library has its own)
                write(tensor, tmp_path / "file")
            found.append(no_room(caught.value))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert all(found)
    assert not any("\n" in text for text in found)
    assert no_room(SettingsError("image_size=0")) is None


@pytest.mark.slow
def test_an_interrupted_training_says_how_to_go_on(vessels, tmp_path):
    for seed in range(2):
        timm.models.save_for_hf(network(seed), tmp_path / str(seed), safe_serialization=True)
    stage = {"num_train_epochs": 1000, "use_cpu": True, "disable_tqdm": True}
    options = {"sources": [str(tmp_path / "0"), str(tmp_path / "1")], "data": str(vessels), "image_size": 32}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**options, "output_dir": "out", "merge": stage}))
    command = [sys.executable, "-m", "medmerge_hf.cli", "train", "config.yaml"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as training:
        while training.poll() is None and not list((tmp_path / "out").glob("merge/checkpoint-*")):
            time.sleep(0.1)
        training.send_signal(signal.SIGINT)
        said = training.communicate(timeout=120)[1]
    assert training.returncode == 130
    assert said.splitlines()[-1] == "Interrupted: the same command goes on from its last checkpoint."
    assert "Traceback" not in said
