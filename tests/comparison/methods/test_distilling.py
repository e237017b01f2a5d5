import pytest
import torch

from medmerge_hf.comparison.methods.distilling import SEEDS
from medmerge_hf.comparison.registry import Method
from medmerge_hf.comparison.runner import Group


@pytest.fixture
def outcomes(finished_plan):
    """Of a method: its outcome, with weights where it keeps some."""
    (setting,) = finished_plan.settings

    def outcome(method, source=None):
        return finished_plan.runs.load(finished_plan.key(setting, method, 0, source), states=True)

    return setting, outcome


def test_seeds_are_networks_of_the_source_that_the_probe_chooses(outcomes):
    setting, outcome = outcomes
    best = max(setting.sources(), key=lambda source: outcome("ranking", source).notes["probe"])
    first, second = outcome(SEEDS).states["0"], outcome(SEEDS).states["1"]
    tuned = outcome("fine-tuned", best).states["end"]
    assert all(torch.equal(first[name], tuned[name]) for name in tuned)
    head = next(name for name in tuned if name.endswith("fc.weight"))
    assert not torch.equal(first[head], second[head])


@pytest.mark.parametrize(("method", "networks"), [("ensemble", 2), (SEEDS, 2), ("distilled", 3), ("self-trained", 3)])
def test_the_steps_of_all_networks_behind_a_method_count(outcomes, method, networks):
    setting, outcome = outcomes
    alone = outcome("fine-tuned", setting.sources()[0]).notes["steps"]
    assert outcome(method).notes["steps"] == networks * alone > 0


def test_a_merge_is_taught_in_as_many_steps_as_a_source(outcomes):
    assert outcomes[1]("MedMerge distilled").notes["steps"] == outcomes[1]("distilled").notes["steps"]


def test_the_taught_merge_of_noise_has_the_same_teachers_and_another_network(outcomes):
    merged, noise = (outcomes[1](name) for name in ("MedMerge distilled", "distilled with noise for sources"))
    assert noise.notes["steps"] == merged.notes["steps"]
    assert (noise.probabilities["test"] != merged.probabilities["test"]).any()


def test_copies_differ_in_head_and_order_and_share_the_images(finished_plan, tmp_path):
    (setting,) = finished_plan.settings
    seen = {}

    def run(job):
        other = job.again(1)
        seen["same"] = other.target is job.target
        seen["seeds"] = [one.settings.finetune.seed for one in (job, other)]
        seen["heads"] = [one.single().network.timm_model.fc.weight for one in (job, other)]
        raise StopIteration

    with pytest.raises(StopIteration):
        Group(finished_plan, 0, setting.target)._outcome(setting, Method("copies", run), setting.options, None)
    assert seen["same"]
    assert seen["seeds"][0] != seen["seeds"][1]
    assert not torch.equal(*seen["heads"])
