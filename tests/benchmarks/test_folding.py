import copy

import folding
import pytest
import torch
from common import append_rows
from foldable import Foldable, features_of, features_of_all, noise_like
from folding import (
    ARMS,
    FIELDS,
    FOLDED,
    SOURCES,
    STEPS,
    Lessons,
    best_readout,
    gains,
    learn,
    matched,
    read_rows,
    settings_of,
    standardised,
    table,
)
from tiny import network, unlike
from torch.nn import functional

from medmerge_hf.errors import SettingsError
from medmerge_hf.networks.backbone import load_backbone
from medmerge_hf.runs.config import read_options
from medmerge_hf.training.single_source import single_source_model


@pytest.fixture(scope="module")
def sources():
    """Tensors of two networks."""
    made = [unlike(network(seed)) for seed in range(2)]
    for norm in (m for one in made for m in one.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    return [dict(one.state_dict()) for one in made]


@pytest.fixture(scope="module")
def started(sources):
    """As it is before it learns: traced once."""
    model = single_source_model(network(0), num_labels=2, image_size=32)
    load_backbone(model.network, {name: tensor for name, tensor in sources[0].items() if not name.startswith("fc.")})
    return Foldable(model.network.eval(), sources, rank=2)


@pytest.fixture
def learner(started):
    return copy.deepcopy(started).eval()


@torch.no_grad()
def disturbed(learner):
    for parameter in [*learner.merge.parameters(), *learner.route.parameters()]:
        parameter.add_(0.1 * torch.randn_like(parameter))
    return learner.eval()


def test_it_starts_at_the_anchor_and_every_stream_learns_from_the_other_source(learner, images):
    torch.testing.assert_close(learner(images), features_of(learner.network, images))
    learner(images).square().sum().backward()
    assert all(mixing.diagonal.grad[1].any() and mixing.up.grad[1].any() for mixing in learner.merge.values())


def test_a_folded_kernel_is_both_sources_kernels_between_re_routed_and_mixed_channels(learner):
    learner = disturbed(learner)
    name, (writes, reads) = next(place for place in learner.places.items() if place[1][1] is not None)
    folded, route, merge = learner.tensors()[name], learner.route[reads], learner.merge[writes]
    stream, wide = torch.randn(2, folded.shape[1], 5, 5), 0
    for source, kernel in enumerate(learner.kernels[name]):
        routing = route.columns(source, torch.eye(folded.shape[1])[:, None])[:, 0]
        mixing = torch.diag(merge.diagonal[source]) + merge.up[source] @ merge.down[source]
        own = kernel.transpose(1, 2).reshape(folded.shape)
        outputs = functional.conv2d(torch.einsum("ij,njhw->nihw", routing, stream), own)
        wide = wide + torch.einsum("oi,nihw->nohw", mixing, outputs)
    torch.testing.assert_close(functional.conv2d(stream, folded), wide, rtol=1e-4, atol=1e-4)


def test_what_was_learned_folds_into_a_plain_network_that_computes_the_same(learner, images):
    anchor, many = copy.deepcopy(learner.network), torch.rand(64, 3, 32, 32).half()
    found = [features_of_all(anchor, view) for view in (many, many.flip(3))]
    wanted = torch.cat([standardised(own, own) for own in found], dim=1)
    lessons = Lessons(many, wanted, many, wanted)
    readout = best_readout(features_of_all(anchor, many), wanted)
    first = matched(anchor, readout, lessons)
    assert first["match_imagenet"] < first["match_fundus"]
    learn(learner, readout, lessons, 1e-2, 0)
    before = learner(images)
    assert not torch.allclose(before, features_of(anchor, images), atol=1e-3)
    plain = learner.fold()
    torch.testing.assert_close(features_of(plain, images), before, rtol=1e-5, atol=1e-5)
    assert all(parameter.requires_grad for parameter in plain.parameters())


def test_a_convolution_in_groups_is_refused(learner, sources):
    learner.network.timm_model.layer1[0].conv1.groups = 2
    with pytest.raises(SettingsError, match=r"layer1\.0\.conv1 cannot be folded"):
        Foldable(learner.network, sources)


def test_noise_keeps_the_norm_of_each_filter_and_nothing_else(sources):
    source = sources[1]
    noise = noise_like(source, 0)
    for name, tensor in source.items():
        if tensor.ndim == 4:
            torch.testing.assert_close(noise[name].flatten(1).norm(dim=1), tensor.flatten(1).norm(dim=1))
            assert functional.cosine_similarity(noise[name].flatten(), tensor.flatten(), 0).abs() < 0.3
        else:
            assert noise[name] is tensor


def test_every_run_takes_the_same_steps_from_the_source_that_it_starts_from(monkeypatch, tmp_path):
    monkeypatch.setenv("MEDMERGE_DATA", str(tmp_path))
    for start in SOURCES:
        settings = settings_of(start, 3, str(tmp_path), read_options(["--image_size", "32"]))
        assert (settings.finetune.max_steps, settings.finetune.eval_strategy, settings.run.seed) == (STEPS, "no", 3)
        assert [start in source["id"] for source in settings.source.sources] == [True, False]
        assert settings.data.image_size == 32


def test_kept_runs_are_read_again_and_compared_within_start_and_seed(monkeypatch, tmp_path):
    monkeypatch.setattr(folding, "RECORD", tmp_path / "runs.csv")
    assert read_rows() == []
    for seed in range(3):
        for place, arm in enumerate(ARMS):
            figures = {"start": "fundus", "arm": arm, "seed": seed, "macro_f1": 0.1 * (seed + place)}
            append_rows(folding.RECORD, [{**dict.fromkeys(FIELDS, 0), **figures}], FIELDS)
    assert len(table(read_rows()).splitlines()) == 2 + 3 * len(ARMS)
    (line,) = [line for line in gains(read_rows()).splitlines() if "noise" in line]
    assert "-0.100 (-0.100 - -0.100)" in line
    (line,) = [line for line in gains(read_rows()[:4]).splitlines() if "noise" in line]
    assert "| -0.100   |" in line
    assert gains([row for row in read_rows() if row["arm"] != FOLDED]).count("\n") == 1
