import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from medmerge_hf import InputConvention
from medmerge_hf.conversion.input_folding import LUMA, changes, channel_map, find_stems, fold_into_stem
from medmerge_hf.errors import ArchitectureMismatchError


def conventions(channels):
    numbers = st.floats(-2, 2)
    scales = st.floats(0.1, 3)
    return st.builds(
        InputConvention,
        mean=st.lists(numbers, min_size=channels, max_size=channels),
        std=st.lists(scales, min_size=channels, max_size=channels),
        value_range=st.sampled_from([(0, 1), (-1, 1), (0, 255)]),
        channel_order=st.sampled_from(["rgb", "bgr"]),
    )


def seen(convention, pixels):
    """What a network of this convention is given for RGB or grey pixels between 0 and 1."""
    low, high = convention.value_range
    values = pixels * (high - low) + low
    if convention.channel_order == "bgr":
        values = values.flip(1)
    return (values - torch.tensor(convention.mean)[:, None, None]) / torch.tensor(convention.std)[:, None, None]


@settings(max_examples=40, deadline=None)
@given(data=st.data(), source_channels=st.sampled_from([1, 3]), anchor_channels=st.sampled_from([1, 3]))
def test_a_folded_stem_sees_the_anchors_image_as_its_own(data, source_channels, anchor_channels):
    source = data.draw(conventions(source_channels))
    anchor = data.draw(conventions(anchor_channels).filter(lambda c: c.channel_order == "rgb"))
    torch.set_default_dtype(torch.float64)
    try:
        stem = nn.Conv2d(source_channels, 4, 3)
        pixels = torch.rand(1, anchor_channels, 8, 8)
        if source_channels == anchor_channels:
            own = pixels
        elif source_channels == 1:
            own = (pixels * torch.tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
        else:
            own = pixels.expand(-1, 3, -1, -1)
        matrix, offset = channel_map(source, anchor, source_channels, anchor_channels)
        found = fold_into_stem({f"stem.{k}": v for k, v in stem.state_dict().items()}, "stem", None, matrix, offset)
        ours = torch.conv2d(seen(anchor, pixels), found["stem.weight"].double(), found["stem.bias"].double())
        theirs = stem(seen(source, own))
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_padded_stem_is_exact_away_from_the_border_only():
    torch.manual_seed(0)
    stem, images = nn.Conv2d(3, 4, 3, padding=1), torch.randn(1, 3, 8, 8)
    matrix, offset = channel_map(InputConvention(), InputConvention.parse("imagenet"), 3, 3)
    found = fold_into_stem({f"s.{k}": v for k, v in stem.state_dict().items()}, "s", None, matrix, offset)
    theirs = stem((torch.einsum("sa,nahw->nshw", matrix, images.double()) + offset[:, None, None]).float())
    ours = torch.conv2d(images, found["s.weight"], found["s.bias"], padding=1)
    difference = (ours - theirs).abs()
    assert difference[..., 1:-1, 1:-1].max() < 1e-5
    assert difference.max() > 1e-2


def test_a_stem_without_bias_shifts_the_batch_norm_behind_it():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)).eval()
    network[1].running_mean.normal_()
    images = torch.randn(1, 3, 8, 8)
    matrix, offset = channel_map(InputConvention.parse("caffe"), InputConvention.parse("imagenet"), 3, 3)
    ((stem, norm),) = find_stems(network).items()
    assert (stem, norm) == ("0", "1")
    theirs = network((torch.einsum("sa,nahw->nshw", matrix, images.double()) + offset[:, None, None]).float())
    network.load_state_dict(fold_into_stem(network.state_dict(), stem, norm, matrix, offset))
    assert torch.allclose(network(images), theirs, rtol=1e-4, atol=1e-2)


def test_a_shift_that_nothing_can_take_is_refused():
    matrix, offset = channel_map(InputConvention(), InputConvention.parse("imagenet"), 3, 3)
    with pytest.raises(ArchitectureMismatchError, match="neither bias nor BatchNorm"):
        fold_into_stem({"0.weight": torch.rand(2, 3, 1, 1)}, "0", None, matrix, offset)


def test_other_channel_numbers_are_refused():
    with pytest.raises(ArchitectureMismatchError, match="only 1 and 3"):
        channel_map(InputConvention(), InputConvention(), 4, 3)


def test_one_convention_changes_nothing():
    imagenet = InputConvention.parse("imagenet")
    assert not changes(*channel_map(imagenet, imagenet, 3, 3))
    assert changes(*channel_map(InputConvention(channel_order="bgr"), InputConvention(), 3, 3))
