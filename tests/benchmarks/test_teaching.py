import csv
import types

import numpy as np
import pytest
import teaching
import torch
from torch import nn

from medmerge_hf.comparison.run_store import Outcome


def outcome(seed):
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.ones(3), 30)
    return Outcome({"test": probabilities}, {"test": np.arange(30) % 3})


def test_an_average_follows_the_weights_and_the_last_counter():
    network, average = nn.BatchNorm1d(1), teaching.Average(0.9)
    for value in (0.0, 1.0):
        network.running_mean.fill_(value)
        network.num_batches_tracked.fill_(int(value))
        average.on_step_end(None, None, None, model=network)
    assert average.state["running_mean"].item() == pytest.approx(0.1)
    assert average.state["num_batches_tracked"] == torch.tensor(1)


def test_a_softened_network_is_as_sure_as_its_temperature_allows():
    class Model(nn.Module):
        image_processor = config = None

        def forward(self, pixels):
            return {"logits": 4 * pixels}

    assert teaching.Softened(Model(), 2.0)(torch.eye(2)).tolist() == [[2, 0], [0, 2]]


def test_a_network_agrees_with_its_teachers_as_often_as_it_says_the_same():
    teachers = [outcome(0), outcome(1)]
    mean = (teachers[0].probabilities["test"] + teachers[1].probabilities["test"]) / 2
    other = Outcome({"test": np.roll(mean, 1, axis=1)}, teachers[0].labels)
    assert teaching.agreement(Outcome({"test": mean}, teachers[0].labels), teachers) == 1
    assert teaching.agreement(other, teachers) == 0


def test_every_seed_of_a_change_stands_in_its_row(tmp_path):
    file = tmp_path / "teaching.csv"

    job = types.SimpleNamespace(earlier={teaching.FINE_TUNED: [outcome(0)]})
    for seed in (0, 1):
        lines = teaching.rows(job, seed, teaching.TWICE, {"last step": outcome(seed)})
        teaching.append_rows(file, lines, list(lines[0]))
    with file.open() as text:
        assert [line["seed"] for line in csv.DictReader(text)] == ["0", "1"]
    (row,) = teaching.table(file).splitlines()[2:]
    assert "twice as long" in row
    assert "0, 1" in row


def test_an_unknown_change_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["teaching.py", "no.yaml", "--output_dir", str(tmp_path), "--changes", "magic"])
    with pytest.raises(SystemExit):
        teaching.main()
    assert "unknown changes ['magic']" in capsys.readouterr().err
