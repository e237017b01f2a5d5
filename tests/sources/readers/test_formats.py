"""Files as the real libraries make them: what they compute is what timm's networks compute with what was read."""

import pytest
import timm
import torch
from formats import CASES, fuzzed, measured, parsed

from medmerge_hf import MedMergeModel, inspect_sources


pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.libraries[0]}: {case.what}")
def test_a_file_of_a_library_computes_what_the_library_computes(case, tmp_path):
    for library in case.libraries:
        pytest.importorskip(library)
    assert measured(case, tmp_path)["difference"] < case.tolerance


def made(what, folder):
    """The source of a case."""
    folder.mkdir()
    case = next(case for case in CASES if case.what == what)
    for library in case.libraries:
        pytest.importorskip(library)
    return case.make(folder)[0]


def merged(sources):
    """A merge from raw files to an exported network's logits; `inspect` has to agree."""
    assert inspect_sources(sources).ok
    model = MedMergeModel.from_sources(sources, num_labels=3, init=0.5)
    model.collapse([{"pixel_values": torch.rand(4, 3, 64, 64)}])
    logits = model.eval()(pixel_values=torch.rand(1, 3, 64, 64)).logits
    assert logits.shape == (1, 3)
    assert torch.isfinite(logits).all()
    return ["; ".join(source["notes"]) for source in model.config.sources]


def test_raw_files_of_keras_and_pytorch_become_a_merge(tmp_path):
    torch.manual_seed(0)
    wrapped = torch.nn.DataParallel(timm.create_model("resnet50"))
    torch.save({"state_dict": wrapped.state_dict(), "epoch": 90}, tmp_path / "net.pth")
    keras = {**made("ResNet50 (.h5)", tmp_path / "keras"), "input": "caffe"}
    anchor = {"id": str(tmp_path / "net.pth"), "architecture": "resnet50", "input": "imagenet"}
    first, second = merged([anchor, keras])
    assert "prefix 'module.' removed" in first
    for words in (
        "Keras' ResNet50",
        "eps 1.001e-05 folded",
        "BGR",
        "stride in conv1 of a bottleneck: features differ",
    ):
        assert words in second


def test_a_raw_file_of_onnx_becomes_a_merge(tmp_path):
    source = made("VGG16", tmp_path / "onnx")
    _, notes = merged([timm.create_model("vgg16"), source])
    assert "read as ONNX of pytorch" in notes
    assert "features equal to" in notes


def test_the_fuzzing_is_counted():
    assert parsed("a.pth 3 7 555\n") == {"a.pth": {"read": 3, "refused": 7, "peak_mb": 555}}
    assert sum(sum((c["read"], c["refused"])) for c in fuzzed(200).values()) == pytest.approx(200, abs=6)
