import numpy as np
import pytest

from medmerge_hf.cli import main
from medmerge_hf.evaluation.probe import Probe
from medmerge_hf.runs.rank import Ranking


LABELS = np.arange(40) % 2


def predictions(sure):
    """Right ones, in which the true class has this probability, more or less."""
    right = np.clip(sure + np.random.default_rng(0).normal(0, 0.05, 40), 0.02, 0.98)
    return Probe(np.stack([np.where(k == LABELS, right, 1 - right) for k in (0, 1)], axis=1), LABELS)


def ranking(together, *alone):
    return Ranking("abc"[: len(alone)], [predictions(p) for p in alone], predictions(together), np.eye(len(alone)))


def test_the_advice_follows_the_interval():
    assert ranking(0.9, 0.6, 0.7).advice.startswith("Merging can pay")
    assert ranking(0.6, 0.6, 0.7).advice.startswith("Fine-tune b alone")
    assert ranking(0.7, 0.6, 0.7).advice.startswith("Fine-tune b first")


def test_the_best_source_stands_first():
    lines = ranking(0.9, 0.6, 0.8, 0.7).to_markdown().splitlines()
    assert [line.split()[1] for line in lines[2:5]] == ["b", "c", "a"]
    assert "CKA to b" in lines[0]


def test_the_command_writes_nothing(folders, vessels, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["rank", "--sources", *folders[:2], "--data", str(vessels), "--image_size", "32"])
    printed = capsys.readouterr().out
    assert "all together" in printed
    assert "training images)." in printed
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_option_is_told_before_anything_is_read(folders):
    with pytest.raises(SystemExit, match="image_size"):
        main(["rank", "--sources", *folders[:2], "--data", "nowhere", "--image_size", "0"])
