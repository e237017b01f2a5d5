import pytest
import timm
import torch
from tiny import network

from medmerge_hf import MedMergeModel
from medmerge_hf.conversion.position_embeddings import resampled
from medmerge_hf.errors import ArchitectureMismatchError


def test_a_smooth_embedding_is_the_same_function_on_another_grid():
    def grid(side):
        x = torch.linspace(0.5 / side, 1 - 0.5 / side, side)
        plane = torch.stack([x[:, None].expand(side, side), x[None].expand(side, side)], dim=-1)
        return torch.cat([torch.full((1, 1, 2), 7.0), plane.reshape(1, -1, 2)], dim=1)

    found = resampled("pos_embed", grid(14), grid(7))
    assert torch.allclose(found[:, 1:], grid(7)[:, 1:], atol=0.05)
    assert torch.equal(found[:, :1], torch.full((1, 1, 2), 7.0))
    assert resampled("pos_embed", grid(7), grid(7)) is None
    assert resampled("conv.weight", grid(14), grid(7)) is None


def test_grids_that_are_not_square_are_refused():
    with pytest.raises(ArchitectureMismatchError, match="no two square grids"):
        resampled("pos_embed", torch.zeros(1, 12, 4), torch.zeros(1, 50, 4))
    with pytest.raises(ArchitectureMismatchError, match="width 4"):
        resampled("pos_embed", torch.zeros(1, 50, 4), torch.zeros(1, 17, 8))


@pytest.mark.parametrize("architecture", ["test_vit", "swin_tiny_patch4_window7_224"])
def test_transformers_merge_at_another_resolution(architecture, tmp_path):
    small = {"embed_dim": 24, "depths": (1, 1), "num_heads": (1, 2)} if architecture.startswith("swin") else {}
    folders = []
    for seed, size in enumerate((96, 160)):
        source = network(seed, architecture, img_size=size, **small)
        arguments = {**small, "img_size": size}
        timm.models.save_for_hf(
            source, tmp_path / str(seed), model_config={"model_args": arguments}, safe_serialization=True
        )
        folders.append(str(tmp_path / str(seed)))
    model = MedMergeModel.from_sources(folders, num_labels=2, init=0.3)
    images = torch.rand(2, 3, 96, 96)
    logits = model(images).logits
    model.collapse().save_pretrained(tmp_path / "out")
    reloaded = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    assert torch.allclose(reloaded(images), logits, atol=1e-5)
    if architecture == "test_vit":
        assert "resampled" in " ".join(model.config.sources[1]["notes"])


def test_a_vision_transformer_takes_the_image_size_that_is_asked_for():
    model = MedMergeModel.from_sources([network(0, "test_vit"), network(1, "test_vit")], num_labels=2, image_size=64)
    assert model(torch.rand(1, 3, 64, 64)).logits.shape == (1, 2)
    assert model.network.config.pretrained_cfg["input_size"] == [3, 64, 64]
    assert "pos_embed resampled" in " ".join(model.config.sources[0]["notes"])
