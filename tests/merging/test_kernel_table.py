import pytest
import torch
from tiny import network

from medmerge_hf import MedMergeModel
from medmerge_hf.merging.kernel_table import source_shares
from medmerge_hf.networks.backbone import backbone_module


def merging(**options):
    return MedMergeModel.from_sources([network(0), network(1)], num_labels=2, image_size=32, **options)


def test_shares_sum_to_one_in_every_block_and_kind():
    model = merging(init=0.25)
    shares = source_shares(model.kernel_weights(), backbone_module(model.network))
    assert set(shares["kind"]) == {"Conv2d", "BatchNorm2d"}
    assert shares.groupby(["block", "kind"])["share"].sum().tolist() == pytest.approx(
        [1.0] * len(shares.groupby(["block", "kind"]))
    )


def test_weights_of_either_sign_do_not_cancel_in_their_size():
    model = merging()
    weights = model.merge.source_bias.data[0]
    weights.copy_(torch.where(torch.arange(len(weights)) % 2 == 0, 0.5, -0.5))
    shares = source_shares(model.kernel_weights(), backbone_module(model.network))
    other = shares[shares["source"] != shares["source"][0]]
    assert other["size"].tolist() == pytest.approx([0.5] * len(other))
    assert other["share"].abs().max() < 0.5
