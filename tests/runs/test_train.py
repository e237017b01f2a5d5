import errno
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from run_files import results, write

from medmerge_hf import MedMergeModel
from medmerge_hf.cli import main as medmerge
from medmerge_hf.comparison.plan import settings_of
from medmerge_hf.data import Target
from medmerge_hf.evaluation.tables import markdown_table
from medmerge_hf.export.folder import save_export
from medmerge_hf.runs import train
from medmerge_hf.runs.config import read_options
from medmerge_hf.runs.report import figures_rows
from medmerge_hf.runs.settings import make_settings


RECIPES = Path(__file__).parents[2] / "recipes"
STAGE = {"num_train_epochs": 1, "use_cpu": True, "disable_tqdm": True}


@pytest.fixture(scope="module")
def options(folders, vessels):
    merge = {**STAGE, "kernel_learning_rate": 0.05}
    return {
        **{"sources": folders[:2], "data": str(vessels), "image_size": 32, "resamples": 20},
        **{"merge": merge, "finetune": {**STAGE, "learning_rate": 0.001}},
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory, options):
    """A finished run: its folder."""
    config, out = write(tmp_path_factory.mktemp("whole"), options)
    train.main([config])
    return out


def test_a_run_merges_finetunes_exports_and_reports(whole):
    figures = results(whole)
    stages = [f"{stage}_{split}" for stage in ("merged", "finetuned") for split in ("validation", "test")]
    metrics = ("macro_f1", "balanced_accuracy", "accuracy", "auroc")
    assert {f"{stage}_{metric}" for stage in stages for metric in metrics} <= figures.keys()
    table = markdown_table(*figures_rows(figures))
    assert f"{figures['finetuned_test_macro_f1']:.3f}" in table
    assert table.count("\n") == 5
    model = MedMergeModel.from_pretrained(whole)
    assert model.config.id2label == {0: "clear", 1: "dots", 2: "patches"}
    assert model.kernel_weights()["weight"].nunique() > 10
    assert (whole / "medmerge" / "kernel_weights.png").stat().st_size > 1000


def test_the_same_seed_gives_the_same_results_and_another_seed_others(options, whole, tmp_path, capsys):
    for name, seed in (("again", 0), ("other", 1)):
        config, out = write(tmp_path / name, options)
        medmerge(["train", config, "--seed", str(seed)])
        printed = capsys.readouterr().out
        assert f"Exported to {out}" in printed
        assert markdown_table(*figures_rows(results(out))) in printed
        assert (results(out) == results(whole)) == (name == "again")


def test_a_run_that_is_over_is_pushed_and_not_trained_again(whole, hub, monkeypatch, capsys):
    monkeypatch.delattr("medmerge_hf.runs.train.load_data")
    config = str(whole.parent / "config.yaml")
    medmerge(["train", config, "--push_to_hub", "true", "--hub_model_id", "tester/later"])
    assert {"model.safetensors", "report.html"} <= hub.listing("tester/later").keys()
    assert markdown_table(*figures_rows(results(whole))) in capsys.readouterr().out


def ends(config, monkeypatch, place, broken):
    """How `medmerge train` ends where a function is broken."""
    with monkeypatch.context() as patch:
        patch.setattr(place, broken)
        with pytest.raises(SystemExit) as caught:
            medmerge(["train", config])
    return caught.value.code


def test_a_full_disk_and_an_interrupt_leave_a_run_that_goes_on(options, whole, tmp_path, monkeypatch, capsys):
    config, out = write(tmp_path, options)

    def interrupted(*_):
        raise KeyboardInterrupt

    def full(destination, *others):
        if destination == out:
            raise OSError(errno.ENOSPC, "No space left on device", "model.safetensors")
        save_export(destination, *others)

    assert ends(config, monkeypatch, "medmerge_hf.runs.stages.MedMergeTrainer.collapse", interrupted) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "Interrupted: the same command goes on from its last checkpoint."
    said = ends(config, monkeypatch, "medmerge_hf.modeling_medmerge.save_export", full)
    assert said == (
        "A file could not be written to its end ([Errno 28] No space left on device: 'model.safetensors'): the disk "
        "or a quota is full. Make room, then the same command goes on from its last checkpoint."
    )
    trained = {file: file.stat().st_mtime_ns for file in out.glob("*/checkpoint-*/*.safetensors")}
    medmerge(["train", config])
    assert {file.parts[-3] for file in trained} == {"merge", "finetune"}
    assert {file: file.stat().st_mtime_ns for file in trained} == trained  # nothing was trained again
    assert results(out) == results(whole)
    assert (out / "report.html").read_text() == (whole / "report.html").read_text()


@pytest.mark.parametrize(
    ("place", "pinned"), [("org/pool@0a1b", {"unlabelled": "org/pool@0a1b"}), ("scans", {}), (None, {})]
)
def test_images_without_a_label_are_pinned_where_they_lie_on_the_hub(place, pinned):
    target = Target()
    target.unlabelled_from = place
    model = SimpleNamespace(config=SimpleNamespace(sources=[]))
    settings = SimpleNamespace(options={"sources": []})
    assert train.exact_revisions(model, target, settings) == {"sources": [], **pinned}


def test_a_run_of_several_labels(options, vessels, tmp_path):
    files = sorted(vessels.rglob("*.png"))[:36]
    labels = ["oedema|nodule", "nodule", "oedema", ""]
    rows = [f"{file},{labels[place % 4]}\n" for place, file in enumerate(files)]
    (tmp_path / "table.csv").write_text("image,label\n" + "".join(rows))
    more = {"multi_label": True, "class_weights": True, "sources_alone": True, "data": str(tmp_path / "table.csv")}
    stage = {**STAGE, "max_steps": 1, "metric_for_best_model": "auroc"}
    config, out = write(tmp_path, {**options, **more, "merge": {**stage, "bf16": True}, "finetune": stage})
    train.main([config])
    assert {"merged_validation_macro_f1", "finetuned_validation_auroc"} <= results(out).keys()
    exported = json.loads((out / "config.json").read_text())
    assert exported["problem_type"] == "multi_label_classification"
    card = (out / "README.md").read_text()
    assert re.search(r"\| split +\| nodule \| oedema \| all \|", card)
    data = json.loads((out / "medmerge" / "config.json").read_text())["record"]["data"]
    assert sum(data["images"].values()) == 36
    assert sum(counts["oedema"] for counts in data["splits"].values()) == 18
    assert "0 alone" in card


@pytest.mark.parametrize("file", sorted((RECIPES / "configs").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_config_is_right(file, monkeypatch, tmp_path):
    for name in re.findall(r"\$\{(\w+)\}", file.read_text()):
        monkeypatch.setenv(name, "/data")
    for setting in settings_of(read_options([str(file)])):
        settings = make_settings({**setting.options, "output_dir": str(tmp_path)})
        assert len(settings.source.sources) >= 2
        assert settings.merge.num_train_epochs > 0
