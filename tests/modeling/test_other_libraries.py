"""Libraries that take an ordinary network take a collapsed model."""

import copy

import pytest
import torch
from tiny import native_vit

from medmerge_hf import MedMergeModel
from medmerge_hf.errors import SettingsError


@pytest.fixture(scope="module")
def vit():
    return MedMergeModel.from_sources([native_vit(seed) for seed in range(2)], num_labels=3, init=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["timm", "vit"])
def test_onnx_of_the_dynamo_exporter_computes_the_same(kind, model, vit, images, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    collapsed = (model if kind == "timm" else copy.deepcopy(vit)).collapse().eval()
    torch.onnx.export(collapsed, (images,), str(tmp_path / "model.onnx"), dynamo=True)
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    assert torch.allclose(torch.from_numpy(logits), collapsed(images).logits, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("merging", [True, False])
def test_torch_export_traces_it(vit, images, merging):
    model = copy.deepcopy(vit) if merging else copy.deepcopy(vit).collapse()
    program = torch.export.export(model.eval(), (images,))
    assert torch.allclose(program.module()(images).logits, model(images).logits, atol=1e-6)


def test_lora_of_peft_trains_on_it_and_is_merged_in(vit, images, tmp_path):
    peft = pytest.importorskip("peft")
    before = vit.plain_model()
    lora = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"])
    model = peft.get_peft_model(copy.deepcopy(vit).collapse(), lora)
    assert torch.allclose(model.eval()(images).logits, vit(images).logits, atol=1e-6)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):  # the first step only moves the half of LoRA that begins at 0
        optimizer.zero_grad()
        model(images, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
        optimizer.step()
    expected = model(images).logits
    with pytest.raises(SettingsError, match=r"q_proj carries a PEFT adapter.*merge_and_unload"):
        model.base_model.model.save_pretrained(tmp_path / "out")
    merged = model.merge_and_unload()
    merged.save_pretrained(tmp_path / "out")
    again = MedMergeModel.from_pretrained(tmp_path / "out")
    assert torch.allclose(again(images).logits, expected, atol=1e-5)
    assert not torch.equal(
        again.network.vit.layers[0].attention.q_proj.weight, before.vit.layers[0].attention.q_proj.weight
    )


def test_captum_attributes_the_logits_of_the_plain_model(vit, images):
    attr = pytest.importorskip("captum.attr")
    plain = vit.plain_model().eval()
    attribute = attr.IntegratedGradients(lambda pixels: plain(pixels).logits).attribute
    found = attribute(images[:1], target=0, n_steps=64)
    change = plain(images[:1]).logits[0, 0] - plain(torch.zeros_like(images[:1])).logits[0, 0]
    assert found.sum().item() == pytest.approx(change.item(), rel=0.01)
