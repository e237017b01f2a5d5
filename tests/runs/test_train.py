import json
import re
from pathlib import Path

import pytest
import timm
from medmerge_hf.runs.build import load_data
from medmerge_hf.runs.build import choose_sources
from tiny import network
from medmerge_hf.comparison.plan import settings_of
from medmerge_hf.runs.settings import make_settings
from medmerge_hf.runs.config import read_options
from medmerge_hf.runs.train import main

from medmerge_hf import MedMergeModel
from medmerge_hf.errors import SettingsError


RECIPES = Path(__file__).parents[2] / "recipes"
CONFIG = """
sources: [{sources}/0, {sources}/1]
data: {data}
image_size: 32
resamples: 20
output_dir: {out}
merge: {{num_train_epochs: 1, kernel_learning_rate: 0.05, use_cpu: true, disable_tqdm: true}}
finetune: {{num_train_epochs: 1, learning_rate: 0.001, use_cpu: true, disable_tqdm: true}}
"""


@pytest.fixture
def config(tmp_path, vessels):
    for seed in range(2):
        timm.models.save_for_hf(network(seed), tmp_path / str(seed), safe_serialization=True)
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG.format(sources=tmp_path, data=vessels, out=tmp_path / "out"))
    return file


def results(folder):
    found = json.loads((folder / "all_results.json").read_text())
    return {key: value for key, value in found.items() if "runtime" not in key and "time" not in key}


def test_train_merges_finetunes_exports_and_reports(config, tmp_path, capsys):
    main([str(config)])
    figures = results(tmp_path / "out")
    metrics = ("macro_f1", "balanced_accuracy", "accuracy", "auroc")
    wanted = {
        f"{stage}_{split}_{m}"
        for stage in ("merged", "finetuned")
        for split in ("validation", "test")
        for m in metrics
    }
    assert wanted <= figures.keys()
    printed = capsys.readouterr().out
    assert f"{figures['finetuned_test_macro_f1']:.3f}" in printed
    model = MedMergeModel.from_pretrained(tmp_path / "out")
    assert model.config.id2label == {0: "clear", 1: "dots", 2: "patches"}
    assert model.kernel_weights()["weight"].nunique() > 10
    assert (tmp_path / "out" / "medmerge" / "kernel_weights.png").stat().st_size > 1000


def test_the_sources_that_promise_most_are_merged(config, tmp_path, caplog):
    timm.models.save_for_hf(network(2), tmp_path / "2", safe_serialization=True)
    sources = [str(tmp_path / name) for name in "012"]
    options = {**read_options([str(config)]), "sources": sources}
    target = load_data(make_settings(options))
    assert choose_sources(make_settings(options), target).source.sources == sources
    with caplog.at_level("INFO", "medmerge_hf"):  # which is what train.py shows
        kept = choose_sources(make_settings({**options, "keep_best": 2}), target)
    assert "Merging the first 2" in caplog.text
    every = choose_sources(make_settings({**options, "keep_best": 3}), target)
    assert sorted(every.source.sources) == sources
    assert kept.source.sources == every.source.sources[:2] == kept.options["sources"]
    with pytest.raises(SettingsError, match="keep 2 at least"):
        make_settings({**options, "keep_best": 1})


def test_the_same_seed_gives_the_same_results_and_another_seed_others(config, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        main([str(config), "--output_dir", str(tmp_path / name), "--seed", str(seed)])
    first, again, other = (results(tmp_path / name) for name in "abc")
    assert first == again
    assert first != other


def test_an_output_dir_of_another_run_is_left_alone(config, tmp_path):
    main([str(config)])
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    with pytest.raises(SystemExit, match="already holds another run"):
        main([str(config), "--seed", "3"])
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("")
    with pytest.raises(SystemExit, match="already holds other files"):
        main([str(config), "--output_dir", str(tmp_path / "foreign")])


def test_the_command_line_wins_over_the_file(config):
    options = read_options([str(config), "--seed", "7", "--merge.learning_rate=0.5", "--sources", "a", "b"])
    settings = make_settings(options)
    assert (settings.run.seed, settings.merge.seed, settings.finetune.seed) == (7, 7, 7)
    assert (settings.merge.learning_rate, settings.finetune.learning_rate) == (0.5, 0.001)
    assert settings.merge.kernel_learning_rate == 0.05
    assert settings.source.sources == ["a", "b"]


def test_wrong_options_are_refused(config, tmp_path, monkeypatch):
    with pytest.raises(SettingsError, match="--data is missing"):
        make_settings(read_options(["--sources", "a", "b"]))
    with pytest.raises(SettingsError, match="cannot be read"):
        read_options(["nowhere.yaml"])
    monkeypatch.delenv("NO_SUCH_VARIABLE", raising=False)
    (tmp_path / "b.yaml").write_text("data: ${NO_SUCH_VARIABLE}/x")
    with pytest.raises(SettingsError, match="environment variable NO_SUCH_VARIABLE"):
        make_settings(read_options([str(tmp_path / "b.yaml")]))
    with pytest.raises(SettingsError, match="Unknown options: --no_such_option 1"):
        make_settings(read_options([str(config), "--no_such_option", "1"]))


@pytest.mark.parametrize("file", sorted((RECIPES / "configs").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_config_parses(file, monkeypatch):
    for name in re.findall(r"\$\{(\w+)\}", file.read_text()):
        monkeypatch.setenv(name, "/data")
    for setting in settings_of(read_options([str(file)])):
        settings = make_settings({**setting.options, "output_dir": "out"})
        assert len(settings.source.sources) >= 2
        assert settings.merge.num_train_epochs > 0
