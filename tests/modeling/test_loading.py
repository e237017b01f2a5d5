import shutil

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import save_file
from tiny import native_vit, network
from transformers import AutoConfig, AutoModelForImageClassification

from medmerge_hf import MedMergeConfig, MedMergeModel
from medmerge_hf.errors import CorruptSourceError, SettingsError, SourceNotFoundError


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A merge of two files, exported (`out`) and as a checkpoint of its merge stage (`checkpoint`)."""
    folder = tmp_path_factory.mktemp("saved")
    for seed in range(2):
        save_file(network(seed).state_dict(), folder / f"{seed}.safetensors")
    files = [str(folder / f"{seed}.safetensors") for seed in range(2)]
    names = {0: "a", 1: "b", 2: "c"}
    model = MedMergeModel.from_sources(files, architecture="test_resnet", id2label=names, image_size=32, init=0.3)
    model.save_pretrained(folder / "out")
    model.save_pretrained(folder / "checkpoint", collapse=False)
    return folder


@pytest.mark.parametrize(
    ("place", "options"), [("out", {}), ("out", {"merging": True}), ("checkpoint", {"dtype": "auto"})]
)
def test_the_loading_info_says_that_nothing_is_missing(saved, place, options):
    model, info = MedMergeModel.from_pretrained(saved / place, output_loading_info=True, **options)
    assert isinstance(model, MedMergeModel)
    assert not any(info.values())
    assert {"missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"} <= info.keys()


def test_a_path_and_a_subfolder_lead_to_the_same_model(saved, images):
    expected = MedMergeModel.from_pretrained(str(saved / "out"))(images).logits
    assert torch.equal(MedMergeModel.from_pretrained(saved, subfolder="out")(images).logits, expected)
    with pytest.raises(SourceNotFoundError, match="no folder 'nothing'"):
        MedMergeModel.from_pretrained(saved, subfolder="nothing")
    with pytest.raises(CorruptSourceError, match=r"holds no config\.json"):
        MedMergeModel.from_pretrained(saved)


def test_a_revision_of_a_hub_repository_is_loaded(hub, model):
    model.push_to_hub("tester/revised")
    first = HfApi().model_info("tester/revised").sha
    torch.nn.init.zeros_(model.merge.source_bias)
    model.push_to_hub("tester/revised")
    found = [MedMergeModel.from_pretrained("tester/revised", revision=name) for name in (first, "main")]
    assert [bool((one.kernel_weights()["weight"] % 1 == 0).all()) for one in found] == [False, True]


@pytest.mark.parametrize("keyword", ["dtype", "torch_dtype"])
def test_a_dtype_is_that_of_the_weights(saved, keyword):
    for dtype in ("bfloat16", torch.bfloat16):
        model = MedMergeModel.from_pretrained(saved / "out", **{keyword: dtype})
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    with pytest.raises(SettingsError, match="not one of float32"):
        MedMergeModel.from_pretrained(saved / "out", **{keyword: "int8"})


def test_a_model_comes_back_in_the_dtype_that_it_was_saved_in(saved, tmp_path):
    model = MedMergeModel.from_pretrained(saved / "out", dtype="float16")
    model.save_pretrained(tmp_path / "out")
    model.save_pretrained(tmp_path / "checkpoint", collapse=False)
    for name in ("out", "checkpoint"):
        for dtype, expected in ((None, torch.float16), ("auto", torch.float16), ("float32", torch.float32)):
            assert MedMergeModel.from_pretrained(tmp_path / name, dtype=dtype).dtype == expected


def test_a_merge_learns_in_float32(saved):
    assert MedMergeModel.from_pretrained(saved / "checkpoint", dtype=torch.float32).merging
    for place, options in (("out", {"merging": True}), ("checkpoint", {})):
        with pytest.raises(SettingsError, match="learns in float32"):
            MedMergeModel.from_pretrained(saved / place, dtype="bfloat16", **options)


@pytest.mark.parametrize("keyword", ["merge", "_merging", "num_labels", "device_map", "ignore_mismatched_sizes"])
@pytest.mark.parametrize("place", ["out", "checkpoint"])
def test_unknown_keywords_are_refused(saved, keyword, place):
    with pytest.raises(SettingsError, match=f"knows no {keyword}; it takes merging"):
        MedMergeModel.from_pretrained(saved / place, **{keyword: True})


def test_a_variant_of_the_weights_is_loaded_where_it_is(tmp_path, images):
    model = MedMergeModel.from_sources([native_vit(seed) for seed in range(2)], num_labels=3, init=0.3)
    model.save_pretrained(tmp_path / "out")
    plain = AutoModelForImageClassification.from_pretrained(tmp_path / "out", dtype=torch.bfloat16)
    plain.save_pretrained(tmp_path / "halves", variant="bf16")
    shutil.copy(tmp_path / "halves" / "model.bf16.safetensors", tmp_path / "out")
    found = MedMergeModel.from_pretrained(tmp_path / "out", variant="bf16")
    assert torch.equal(found.network.classifier.weight, plain.classifier.weight.float())
    assert not torch.equal(found.network.classifier.weight, model.network.classifier.weight)
    with pytest.raises(CorruptSourceError, match=r"model\.fp16\.safetensors"):
        MedMergeModel.from_pretrained(tmp_path / "out", variant="fp16")
    with pytest.raises(SettingsError, match="only the weights of an export"):
        MedMergeModel.from_pretrained(tmp_path / "out", variant="bf16", merging=True)


def test_auto_classes_load_a_checkpoint_of_the_merge_stage(saved, images):
    config = AutoConfig.from_pretrained(saved / "checkpoint")
    assert (type(config), len(config.sources)) == (MedMergeConfig, 2)
    model = AutoModelForImageClassification.from_pretrained(saved / "checkpoint", output_hidden_states=True)
    assert model.merging
    assert model(images).hidden_states


def test_auto_classes_refuse_other_classes_and_other_sources_of_a_checkpoint(saved):
    with pytest.raises(SettingsError, match=r"classes a, b, c \(3\), and the config that was given .*\(7\)"):
        AutoModelForImageClassification.from_pretrained(saved / "checkpoint", num_labels=7)
    with pytest.raises(SettingsError, match=r"from_pretrained\(\.\.\., sources="):
        AutoModelForImageClassification.from_pretrained(saved / "checkpoint", sources=[network(0), network(1)])


def test_a_state_of_another_head_is_refused(saved, tmp_path):
    shutil.copytree(saved / "checkpoint", tmp_path / "checkpoint")
    config = MedMergeConfig.from_pretrained(tmp_path / "checkpoint")
    config.num_labels = 4
    config.save_pretrained(tmp_path / "checkpoint")
    with pytest.raises(CorruptSourceError, match="does not fit its config"):
        MedMergeModel.from_pretrained(tmp_path / "checkpoint")
