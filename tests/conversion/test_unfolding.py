import torch
from tiny import network
from torch.nn.utils.fusion import fuse_conv_bn_eval

from medmerge_hf import MedMergeModel, inspect_sources
from medmerge_hf.conversion.unfolding import norms_behind, unfold


def fused(seed):
    """The tensors of a network whose BatchNorms were folded into its convolutions."""
    made = network(seed)
    for conv, norm in norms_behind(made).items():
        made.set_submodule(conv, fuse_conv_bn_eval(made.get_submodule(conv), made.get_submodule(norm)))
        made.set_submodule(norm, torch.nn.Identity())
    return made.state_dict()


def test_folded_batch_norms_are_taken_out_again_and_compute_the_same(tmp_path):
    torch.save(fused(1), tmp_path / "a.pth")
    model = MedMergeModel.from_sources([network(0), str(tmp_path / "a.pth")], num_labels=2, init=1.0)
    sources = [str(tmp_path / "a.pth"), network(0)]
    anchor = MedMergeModel.from_sources(sources, architecture="test_resnet", num_labels=2, init=0.0)
    count = f"{len(norms_behind(network(0)))} BatchNorms that were folded into convolutions taken out again"
    assert count in model.config.sources[1]["notes"]
    assert count in inspect_sources([network(0), str(tmp_path / "a.pth")]).sources[1].notes
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        ours, theirs = anchor.plain_model().timm_model.eval().forward_features(images), network(1)
        assert torch.allclose(ours, theirs.forward_features(images), atol=1e-4, rtol=1e-4)


def test_a_bias_before_a_batch_norm_is_taken_off_its_mean():
    made = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1, bias=False), torch.nn.BatchNorm2d(4))
    tensors, notes = unfold(made.state_dict() | {"0.bias": torch.ones(4)}, made)
    assert torch.equal(tensors["1.running_mean"], -torch.ones(4))
    assert "0.bias" not in tensors
    assert notes == ["1 biases before a BatchNorm taken off its mean"]
    assert unfold(made.state_dict(), made)[1] == []
