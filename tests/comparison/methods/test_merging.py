import pytest
import torch
from tiny import network

from medmerge_hf import MedMergeModel
from medmerge_hf.comparison.methods.merging import scramble_sources
from medmerge_hf.errors import StateError


def test_noise_takes_the_place_of_the_sources_and_leaves_the_anchor():
    model = MedMergeModel.from_sources([network(0), network(1)], num_labels=2, image_size=32)
    images = torch.randn(2, 3, 32, 32)
    before = model(images).logits
    differences = {n: d.clone() for n, d in model.merge.differences.named_parameters()}
    scramble_sources(model, seed=1)
    assert torch.equal(model(images).logits, before)
    for name, noise in model.merge.differences.named_parameters():
        old, new = (tensor.reshape(len(noise), -1) for tensor in (differences[name], noise))
        assert torch.allclose(new.norm(dim=1), old.norm(dim=1), atol=1e-6)
        if old.shape[1] > 100:
            assert torch.nn.functional.cosine_similarity(new, old).abs().mean() < 0.2
    with pytest.raises(StateError, match="collapsed"):
        scramble_sources(model.collapse())
