import pytest
import yaml

from medmerge_hf.errors import OutputDirError
from medmerge_hf.runs.run_folder import claim_output_dir, figures_of_finished, recipe_of
from medmerge_hf.runs.settings import make_settings


@pytest.fixture
def options(tmp_path):
    stage = {"hub_token": "hf_secret", "learning_rate": 0.5}
    return {"sources": ["/home/me/a", "b/c"], "data": "images", "output_dir": str(tmp_path / "out"), "merge": stage}


def test_the_same_run_may_go_on_and_another_may_not(options, tmp_path):
    folder = claim_output_dir(make_settings(options))
    (folder / "merge").mkdir()
    assert claim_output_dir(make_settings(options)) == folder
    with pytest.raises(OutputDirError, match="already holds another run"):
        claim_output_dir(make_settings({**options, "seed": 3}))


def test_a_run_that_is_over_may_be_pushed(options):
    folder = claim_output_dir(make_settings(options))
    pushed = {**options, "push_to_hub": True, "hub_model_id": "me/net", "hub_private_repo": True}
    assert claim_output_dir(make_settings(pushed)) == folder
    assert "me/net" not in (folder / "run.yaml").read_text()


def test_a_run_is_over_once_its_weights_and_its_own_page_are_there(tmp_path):
    (tmp_path / "all_results.json").write_text('{"macro_f1": 0.5}')
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert figures_of_finished(tmp_path) is None
    (tmp_path / "report.html").write_text("somebody else's")
    assert figures_of_finished(tmp_path) is None
    (tmp_path / "report.html").write_text('<meta name="generator" content="medmerge_hf">')
    assert figures_of_finished(tmp_path) == {"macro_f1": 0.5}
    (tmp_path / "model.safetensors").unlink()
    assert figures_of_finished(tmp_path) is None


def test_foreign_files_are_left_alone_and_half_a_record_is_not_foreign(options, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.tmp").write_text("sourc")
    claim_output_dir(make_settings(options))
    (tmp_path / "out" / "run.yaml").replace(tmp_path / "out" / "thesis.tex")
    with pytest.raises(OutputDirError, match="already holds other files"):
        claim_output_dir(make_settings(options))
    (tmp_path / "out" / "run.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(OutputDirError, match="another run"):
        claim_output_dir(make_settings(options))


def test_a_folder_that_cannot_be_made_is_named(options, tmp_path):
    settings = make_settings(options)
    (tmp_path / "out").write_text("a file by now")
    with pytest.raises(OutputDirError, match=r"out cannot be written into \(.*Choose another --output_dir"):
        claim_output_dir(settings)


def test_tokens_are_not_written_and_places_not_published(options):
    settings = make_settings(options)
    assert "hf_secret" not in (claim_output_dir(settings) / "run.yaml").read_text()
    recipe = yaml.safe_load(recipe_of(settings, {"data_revision": "abc"}))
    assert recipe == {
        "sources": ["a", "b/c"],
        "data": "images",
        "merge": {"learning_rate": 0.5},
        "data_revision": "abc",
    }
