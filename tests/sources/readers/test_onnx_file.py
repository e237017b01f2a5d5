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


@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_batch_norms_that_the_export_folded_are_taken_out_and_proven_by_running_the_file(dynamo, tmp_path):
    pytest.importorskip("onnxruntime")
    file = export(network(1), tmp_path / "r.onnx", 64, dynamo=dynamo)
    model = MedMergeModel.from_sources([network(0), file], num_labels=2, init=1.0)
    notes = "; ".join(model.config.sources[1]["notes"])
    assert "15 BatchNorms that were folded into convolutions taken out again; features equal to" in notes
    assert inspect_sources([network(0), file]).sources[1].problem is None


def test_names_that_nobody_knows_are_paired_by_order_and_run(tmp_path):
    pytest.importorskip("onnxruntime")
    model = onnx.load(export(network(1), tmp_path / "r.onnx", 64, dynamo=False))
    for index, node in enumerate(model.graph.node):
        node.name = f"n{index}"
    for index, one in enumerate(model.graph.initializer):
        for node in model.graph.node:
            node.input[:] = [f"t{index}" if name == one.name else name for name in node.input]
        one.name = f"t{index}"
    onnx.save(model, tmp_path / "n.onnx")
    notes = MedMergeModel.from_sources([network(0), str(tmp_path / "n.onnx")], num_labels=2).config.sources[1]["notes"]
    assert "paired by shape and order" in "; ".join(notes)
    assert "features equal to" in "; ".join(notes)
    conv = next(one for one in model.graph.initializer if len(one.dims) == 4)
    conv.CopyFrom(onnx.numpy_helper.from_array(3 - onnx.numpy_helper.to_array(conv), conv.name))
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Sigmoid"
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ArchitectureMismatchError, match="paired by shape and order, it computes other features"):
        MedMergeModel.from_sources([network(0), str(tmp_path / "other.onnx")], num_labels=2)


def test_an_export_that_keeps_its_batch_norms_is_read_by_its_names(tmp_path):
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
    with pytest.raises(
        CorruptSourceError, match=r"ONNX file of quantised weights.*python -m medmerge_hf.sources.extract"
    ):
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
