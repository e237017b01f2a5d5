import json
import zipfile

import pytest
import torch
from tiny import network

from medmerge_hf import MedMergeModel, inspect_sources
from medmerge_hf.errors import CorruptSourceError
from medmerge_hf.sources.load import load_source


def exported(tmp_path):
    program = torch.export.export(network(1), (torch.zeros(1, 3, 64, 64),))
    torch.export.save(program, tmp_path / "a.pt2")
    return tmp_path / "a.pt2"


def test_an_exported_program_is_read_by_its_weights_alone(tmp_path):
    file = exported(tmp_path)
    found = load_source(str(file)).tensors
    assert all(torch.equal(found[name], tensor) for name, tensor in network(1).state_dict().items())
    model = MedMergeModel.from_sources([network(0), str(file)], num_labels=2)
    report = inspect_sources([network(0), str(file)]).sources[1]
    assert report.problem is None
    assert report.notes[0] == model.config.sources[1]["notes"][0] == "graph left out"


@pytest.mark.parametrize(
    "change", [{"sizes": [{"as_int": 10**9}]}, {"dtype": 99}, {"strides": [{"as_int": 10**9}] * 4}]
)
def test_weights_that_do_not_fit_their_description_are_refused(change, tmp_path):
    file = exported(tmp_path)
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(tmp_path / "b.pt2", "w") as other:
        for name in archive.namelist():
            content = archive.read(name)
            if name.endswith("model_weights_config.json"):
                config = json.loads(content)
                config["config"]["conv1.0.weight"]["tensor_meta"] |= change
                content = json.dumps(config).encode()
            other.writestr(name, content)
    with pytest.raises(CorruptSourceError, match=r"exported program of PyTorch.*torch\.save"):
        load_source(str(tmp_path / "b.pt2"))
