import pytest
import torch
from conftest import network

from medmerge_hf import MedMergeModel


def merging(**options):
    return MedMergeModel.from_sources([network(0), network(1)], num_labels=2, image_size=32, **options)


def test_shares_sum_to_one_in_every_stage_and_kind():
    model = merging(init=0.25)
    shares = model.source_shares()
    assert set(shares["kind"]) == {"Conv2d", "BatchNorm2d"}
    assert shares.groupby(["stage", "kind"])["share"].sum().tolist() == pytest.approx(
        [1.0] * len(shares.groupby(["stage", "kind"]))
    )


def test_weights_of_either_sign_do_not_cancel_in_their_size():
    model = merging()
    weights = model.merge.source_bias.data[0]
    weights.copy_(torch.where(torch.arange(len(weights)) % 2 == 0, 0.5, -0.5))
    shares = model.source_shares()
    other = shares[shares["source"] != shares["source"][0]]
    assert other["size"].tolist() == pytest.approx([0.5] * len(other))
    assert other["share"].abs().max() < 0.5
