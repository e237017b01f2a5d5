import inspect
import logging

import numpy as np
import pytest

from medmerge_hf import load_target
from medmerge_hf.runs.build import choose_sources, load_data, make_model, make_single, training_features
from medmerge_hf.runs.settings import make_settings


@pytest.fixture
def options(folders, vessels, tmp_path):
    return {"sources": folders, "data": str(vessels), "output_dir": str(tmp_path / "out"), "image_size": 32}


def test_the_sources_that_promise_most_are_merged(options, monkeypatch, caplog):
    promises = {"0": 0.1, "1": 0.9, "2": 0.5}
    monkeypatch.setattr("medmerge_hf.runs.build.make_single", lambda source, *_: source)
    monkeypatch.setattr("medmerge_hf.runs.build.training_features", lambda source, *_: (source[-1], None))
    monkeypatch.setattr("medmerge_hf.runs.build.probe_score", lambda features, *_: promises[features])
    settings = make_settings(options)
    assert choose_sources(settings, None) is settings
    with caplog.at_level(logging.INFO, "medmerge_hf"):  # which is what a training shows
        kept = choose_sources(make_settings({**options, "keep_best": 2}), None)
    assert "1 0.900, 2 0.500, 0 0.100. Merging the first 2" in caplog.text
    assert kept.source.sources == kept.options["sources"] == [options["sources"][1], options["sources"][2]]
    assert kept.source.keep_best is kept.options.get("keep_best") is None


def test_every_option_of_the_data_reaches_what_reads_it(options, monkeypatch):
    given = {"data_name": "a", "data_revision": "b", "dicom_window": [1, 2], "label_fraction": 0.5, "seed": 3}
    monkeypatch.setattr("medmerge_hf.runs.build.load_target", lambda data, **others: {"data": data, **others})
    found = load_data(make_settings({**options, **given}))
    assert found.keys() == inspect.signature(load_target).parameters.keys()
    assert (found["name"], found["revision"], found["dicom_window"]) == ("a", "b", [1, 2])
    assert (found["data"], found["label_fraction"], found["seed"]) == (options["data"], 0.5, 3)


def test_options_reach_the_model(options):
    more = {"granularity": "layer", "init": 0.25, "exclude": ["layer4*"], "align": "activations"}
    settings = make_settings({**options, **more})
    target = load_data(settings)
    model = make_model(settings, target)
    config = model.config
    assert (config.granularity, config.init, config.exclude, config.align) == (
        *("layer", 0.25, ["layer4*"]),
        {"method": "activations"},
    )
    assert config.id2label == {0: "clear", 1: "dots", 2: "patches"}
    single = make_single(settings.source.sources[0], settings, target)
    features, labels = training_features(single, target, seed=0)
    assert len(features) == len(labels) == 24
    assert np.bincount(labels).tolist() == [8, 8, 8]
