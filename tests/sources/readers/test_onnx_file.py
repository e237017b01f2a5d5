import pytest
import torch
from tiny import network

from medmerge_hf import MedMergeModel, inspect_sources
from medmerge_hf.errors import ArchitectureMismatchError, CorruptSourceError, SourceError
from medmerge_hf.sources.load import load_source


onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.filterwarnings("ignore")


def export(model, file, size=160, **options):
    torch.onnx.export(model, (torch.zeros(1, 3, size, size),), str(file), verbose=False, **options)
    return str(file)


def test_the_layers_of_an_exported_network_have_their_names_and_values(tmp_path):
    file = export(network(1, "test_vit"), tmp_path / "v.onnx", dynamo=False)
    model = MedMergeModel.from_sources([network(0, "test_vit"), file], num_labels=2, init=1.0)
    found, wanted = model.plain_model().timm_model.state_dict(), network(1, "test_vit").state_dict()
    assert all(torch.allclose(found[k], t, atol=1e-6) for k, t in wanted.items() if not k.startswith("head"))
    report = inspect_sources([network(0, "test_vit"), file]).sources[1]
    assert report.problem is None
    assert "read as ONNX of pytorch" in report.notes
    assert report.notes[0] in model.config.sources[1]["notes"]


@pytest.mark.parametrize("external", [False, True])
def test_the_layers_of_the_new_exporter_are_named_by_the_scopes_that_it_notes(external, tmp_path):
    file = export(network(1, "test_vit"), tmp_path / "v.onnx", dynamo=True, external_data=external)
    found = load_source(file).tensors
    blocks = {k: t for k, t in network(1, "test_vit").state_dict().items() if k.startswith("blocks")}
    assert all(torch.equal(found[name], tensor) for name, tensor in blocks.items())
    # What a constant was folded into is missed, not guessed.
    with pytest.raises(ArchitectureMismatchError, match=r"missing \(pos_embed\).*do_constant_folding=False"):
        MedMergeModel.from_sources([network(0, "test_vit"), file], num_labels=2)


def test_what_is_read_is_what_onnxruntime_computes_with(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    file = export(network(1, "test_convnext"), tmp_path / "v.onnx", dynamo=True)
    ours = network(0, "test_convnext")
    ours.load_state_dict(load_source(file).tensors, strict=False)
    images = torch.rand(1, 3, 160, 160)
    session = runtime.InferenceSession(file)
    (theirs,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        assert torch.allclose(ours(images), torch.from_numpy(theirs), atol=1e-4)


def test_batch_norms_that_the_export_folded_are_missed_and_not_made_up(tmp_path):
    file = export(network(1), tmp_path / "r.onnx", 64, dynamo=True)
    with pytest.raises(ArchitectureMismatchError, match=r"tensors are missing \(bn1"):
        MedMergeModel.from_sources([network(0), file], num_labels=2)
    report = inspect_sources([network(0), file]).sources[1]
    assert "tensors are missing (bn1" in report.problem
    kept = export(
        network(1),
        tmp_path / "k.onnx",
        64,
        dynamo=False,
        do_constant_folding=False,
        training=torch.onnx.TrainingMode.PRESERVE,
    )
    assert MedMergeModel.from_sources([network(0), kept], num_labels=2).config.sources[1]["loader"] == "file"


def test_weights_in_another_folder_and_quantised_ones_are_refused(tmp_path):
    from onnx import TensorProto, helper

    tensor = helper.make_tensor("conv.weight", TensorProto.FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0])
    graph = helper.make_graph([helper.make_node("QuantizeLinear", ["x", "s"], ["y"])], "g", [], [], [tensor])
    onnx.save(helper.make_model(graph), tmp_path / "q.onnx")
    with pytest.raises(CorruptSourceError, match="ONNX file of quantised weights"):
        load_source(str(tmp_path / "q.onnx"))
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    onnx.save(helper.make_model(helper.make_graph([], "g", [], [], [tensor])), tmp_path / "e.onnx")
    with pytest.raises(CorruptSourceError, match="not beside the file"):
        load_source(str(tmp_path / "e.onnx"))


def test_without_onnx_the_way_out_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.onnx").write_bytes(b"\x08\x0a\x12\x07pytorch\x1a\x06")
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(SourceError, match=r"pip install 'medmerge_hf\[onnx\]'"):
        load_source(str(tmp_path / "a.onnx"))
