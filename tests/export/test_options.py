import pytest
import timm
import torch
from tiny import native_vit

from medmerge_hf import MedMergeModel
from medmerge_hf.errors import SettingsError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "fp16"}, "timm and pipelines do not look for"),
        ({"safe_serialization": False}, "knows no safe_serialization.*always safetensors"),
        ({"max_shard_size": "100KB"}, r"\(1\.5 MB\) into \d files, and timm reads one"),
        ({"collapse": False, "dtype": "bfloat16"}, "leave out dtype"),
        ({"collapse": False, "max_shard_size": "1GB"}, "leave out max_shard_size"),
        ({"collapse": False, "push_to_hub": True}, "only the export goes to the Hub"),
    ],
)
def test_what_would_have_no_effect_or_no_reader_is_refused_and_nothing_is_saved(model, tmp_path, options, message):
    with pytest.raises(SettingsError, match=message):
        model.save_pretrained(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_size_above_that_of_the_weights_splits_nothing(model, tmp_path, images):
    model.save_pretrained(tmp_path / "out", max_shard_size="2MB", variant=None, repo_id="me/merged")
    found = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    assert torch.allclose(found(images), model(images).logits, atol=1e-5)


def test_weights_of_a_native_network_may_lie_in_several_files(tmp_path, images):
    model = MedMergeModel.from_sources([native_vit(seed) for seed in range(2)], num_labels=3, init=0.3)
    model.save_pretrained(tmp_path / "out", max_shard_size="5KB")
    assert len(list((tmp_path / "out").glob("model-*"))) > 1
    assert torch.allclose(
        MedMergeModel.from_pretrained(tmp_path / "out")(images).logits, model(images).logits, atol=1e-6
    )
