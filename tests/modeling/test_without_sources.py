import pytest
import timm
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForImageClassification

from medmerge_hf import MedMergeConfig, MedMergeModel
from medmerge_hf.errors import SettingsError, StateError


@pytest.fixture
def fresh(model):
    """A model of an architecture alone, as the constructor makes it."""
    torch.manual_seed(0)
    return MedMergeModel(MedMergeConfig(network=model.config.network, num_labels=3)).eval()


@pytest.mark.parametrize("collapse", [True, False])
def test_it_is_saved_and_comes_back(fresh, images, tmp_path, collapse):
    fresh.save_pretrained(tmp_path / "out", collapse=collapse)
    again = MedMergeModel.from_pretrained(tmp_path / "out")
    assert not again.merging
    assert torch.allclose(again(images).logits, fresh(images).logits, atol=1e-6)
    assert again.config.sources == []


def test_its_export_is_an_ordinary_network_whose_card_claims_no_merge(fresh, images, tmp_path):
    fresh.save_pretrained(tmp_path / "out")
    expected = fresh(images).logits
    plain = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert torch.allclose(plain(images).logits, expected, atol=1e-6)
    loaded = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    assert torch.allclose(loaded(images), expected, atol=1e-6)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "unknown"
    assert "come from no merge" in card.text
    assert "## Sources" not in card.text


def test_it_has_no_merge_to_go_back_to(fresh, tmp_path):
    fresh.save_pretrained(tmp_path / "out")
    with pytest.raises(StateError, match=r"holds no medmerge/state\.safetensors"):
        MedMergeModel.from_pretrained(tmp_path / "out", merging=True)
    with pytest.raises(StateError, match="no kernel weights"):
        fresh.kernel_weights()


def test_the_config_of_a_merge_makes_a_network_that_is_none(model, images, tmp_path):
    model.save_pretrained(tmp_path / "merge")
    other = MedMergeModel(model.config).eval()
    other.save_pretrained(tmp_path / "out")
    again = MedMergeModel.from_pretrained(tmp_path / "out")
    assert torch.allclose(again(images).logits, other(images).logits, atol=1e-6)
    assert not torch.allclose(again(images).logits, model(images).logits, atol=1e-3)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "come from no merge" in card
    assert "base_model" not in card


def test_a_config_without_a_network_makes_no_model():
    with pytest.raises(SettingsError, match="knows no model type None"):
        MedMergeModel(MedMergeConfig())
