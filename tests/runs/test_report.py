import json
import shutil

import pytest
import yaml
from pages import Page

from medmerge_hf.runs import train
from medmerge_hf.runs.report import draw_history, figures_rows


SECTIONS = ["Results", "Confusion", "Calibration", "Training", "Kernel weights by depth", "Sources", "Data"]

STAGE = {"num_train_epochs": 1, "use_cpu": True, "disable_tqdm": True}


def finished(folder, sources, data, **options):
    """The folder of a run."""
    stages = {"merge": {**STAGE, "logging_steps": 1}, "finetune": {**STAGE, "learning_rate": 0.001}}
    more = {"image_size": 32, "resamples": 20, "output_dir": str(folder / "out")}
    (folder / "config.yaml").write_text(
        yaml.safe_dump({**stages, **more, "sources": sources, "data": str(data), **options})
    )
    train.main([str(folder / "config.yaml")])
    return folder / "out"


@pytest.fixture(scope="module")
def out(tmp_path_factory, folders, vessels):
    """A finished run with a class of an awkward name and a broken image."""
    place = tmp_path_factory.mktemp("report")
    data = shutil.copytree(vessels, place / "data")
    for split in data.iterdir():
        (split / "dots").rename(split / "<b> & co")
    (data / "train" / "clear" / "broken.png").write_bytes(b"no image")
    return finished(place, folders[:2], data, skip_unreadable=True)


def test_the_page_says_what_the_run_did(out):
    html, figures = (out / "report.html").read_text(), json.loads((out / "all_results.json").read_text())
    page, record = Page(html), json.loads((out / "medmerge" / "config.json").read_text())["record"]
    assert page.headings == [*SECTIONS, "Make it again"]
    assert page.tables["After each stage"] == [figures_rows(figures)[0], *figures_rows(figures)[1]]
    shown = f"{figures['finetuned_test_accuracy']:.3f}"
    assert page.tables["After each stage"][-1][4] == shown
    assert page.tables["With intervals"][-1][5].startswith(shown)
    assert page.fetched == []
    assert "<b>" not in html
    assert [row[0] for row in page.tables["Images by class"][1:]] == ["train", "validation", "test"]
    assert page.tables["Images by class"][0][1] == "<b> & co"
    [left_out] = page.tables["What was left out"][1:]
    assert left_out[1] == "1"
    mistakes = next(rows for caption, rows in page.tables.items() if caption.startswith("Mistakes"))[1:]
    wrong = sum(n for true, predicted, n in record["results"][-1]["confusion"] if true != predicted)
    assert sum(int(row[2]) for row in mistakes) == wrong
    assert page.text.count("seed: 0") == record["recipe"].count("seed: 0")
    assert str(out) not in html


def test_every_picture_is_told_in_words(out):
    pictures = Page((out / "report.html").read_text()).pictures
    log = json.loads((out / "merge" / "history.json").read_text())
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert f"training loss from {losses[0]:.3f} to {losses[-1]:.3f}" in pictures[2]
    begins = ["Confusion matrix", "Reliability", "Merge stage", "Fine-tuning", "Kernel weights of"]
    assert [text[: len(begin)] for text, begin in zip(pictures, begins, strict=True)] == begins


def test_the_card_leads_to_the_page(out):
    assert "[report.html](report.html)" in (out / "README.md").read_text()


def test_a_page_of_several_labels(folders, vessels, tmp_path):
    files = sorted(vessels.rglob("*.png"))[:36]
    labels = ["oedema|nodule", "nodule", "oedema", ""]
    rows = [f"{file},{labels[place % 4]}\n" for place, file in enumerate(files)]
    (tmp_path / "table.csv").write_text("image,label\n" + "".join(rows))
    options = {"multi_label": True, "finetune": {**STAGE, "eval_strategy": "no", "load_best_model_at_end": False}}
    page = Page((finished(tmp_path, folders[:2], tmp_path / "table.csv", **options) / "report.html").read_text())
    table = next(rows for caption, rows in page.tables.items() if caption.startswith("Each label:"))
    assert [row[0] for row in table[1:]] == ["nodule", "oedema"]
    images = {sum(map(int, row[1:])) for row in table[1:]}
    assert images == {int(page.tables["With intervals"][-1][-1])}


@pytest.mark.parametrize(("evaluated", "panels"), [(True, 2), (False, 1)])
def test_a_stage_that_was_not_evaluated_has_no_empty_panel(evaluated, panels):
    logs = [{"epoch": 1.0, "loss": 0.5}, *([{"epoch": 1.0, "eval_loss": 0.4, "eval_macro_f1": 0.6}] * evaluated)]
    assert len(draw_history("Merge stage", logs).figure.axes) == panels
