import pytest
import torch
from torch import nn

from medmerge_hf.networks.batch_norm import batch_norms, recalibrate_batch_norm


def test_statistics_are_those_of_all_images_whatever_the_batch_sizes():
    norm = nn.BatchNorm2d(3, momentum=0.3)
    x = torch.randn(12, 3, 4, 4) * 2 + 1
    recalibrate_batch_norm(norm, [x[:7], x[7:]])
    assert torch.allclose(norm.running_mean, x.mean((0, 2, 3)), atol=1e-6)
    within = (7 * x[:7].var((0, 2, 3)) + 5 * x[7:].var((0, 2, 3))) / 12
    assert torch.allclose(norm.running_var, within, atol=1e-5)


def test_old_statistics_leave_no_trace():
    x = torch.randn(8, 3, 4, 4)
    fresh, stale = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    stale.running_mean.fill_(1e6)
    stale.running_var.fill_(1e6)
    for norm in (fresh, stale):
        recalibrate_batch_norm(norm, [x])
    assert torch.equal(fresh.running_mean, stale.running_mean)
    assert torch.equal(fresh.running_var, stale.running_var)


def test_modes_and_momenta_are_as_before():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=0.3), nn.Dropout(), nn.BatchNorm2d(4))
    model[3].eval()
    recalibrate_batch_norm(model, [torch.randn(4, 3, 2, 2)])
    assert [m.training for m in model] == [True, True, True, False]
    assert (model[1].momentum, model[3].momentum) == (0.3, 0.1)


def test_dict_batches_with_labels_are_taken(model, images):
    batch = {"pixel_values": images, "labels": torch.zeros(4, dtype=torch.long)}
    norm = batch_norms(model)[0]
    before = norm.running_mean.clone()
    assert recalibrate_batch_norm(model, [batch, batch]) == 8
    assert not torch.equal(before, norm.running_mean)


def test_a_network_without_batch_norm_sees_no_image():
    assert recalibrate_batch_norm(nn.Linear(2, 2), [torch.zeros(1, 2)]) == 0


@pytest.mark.parametrize("sizes", [[4, 4, 1], [1, 4], [1, 1, 1], [4, 1, 4], [1, 1, 4, 1]])
@pytest.mark.parametrize("kind", ["tensor", "dict", "tuple"])
def test_an_image_alone_is_joined_to_a_neighbour(sizes, kind):
    norm, images = nn.BatchNorm2d(3), torch.randn(sum(sizes), 3, 1, 1)
    make = {"tensor": lambda x: x, "dict": lambda x: {"pixel_values": x, "labels": 0}, "tuple": lambda x: (x, 0)}[kind]
    forward = (lambda batch: norm(batch["pixel_values"])) if kind == "dict" else None
    assert recalibrate_batch_norm(norm, map(make, images.split(sizes)), forward) == len(images)
    assert torch.allclose(norm.running_mean, images.mean((0, 2, 3)), atol=1e-6)
