import torch
from tiny import network

from medmerge_hf import MedMergeModel
from medmerge_hf.networks.backbone import load_backbone
from medmerge_hf.networks.features import observed_features


def test_each_source_is_itself_again_with_its_own_statistics():
    sources = [network(seed) for seed in range(3)]
    model = MedMergeModel.from_sources(sources, num_labels=2, image_size=32)
    images = torch.rand(4, 3, 32, 32)
    for source, tensors in zip(sources, model.merged_network.source_tensors(), strict=True):
        again = model.plain_model().eval()
        load_backbone(again, tensors)
        with torch.no_grad(), observed_features(source) as expected, observed_features(again) as found:
            source.eval()(images), again(images)
        assert torch.allclose(found[-1], expected[-1], atol=1e-4)


def test_watching_ends_with_the_block(model):
    with observed_features(model.network) as seen:
        model.network(torch.rand(2, 3, 32, 32))
    first = seen[-1]
    model.network(torch.rand(2, 3, 32, 32))
    assert seen[-1] is first
