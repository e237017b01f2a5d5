import json

import pytest
import torch
from safetensors.torch import save_file
from tiny import network

from medmerge_hf import MedMergeModel, inspect_sources
from medmerge_hf.errors import CorruptSourceError
from medmerge_hf.sources.entries import TWINS, choose_entry


ONE, OTHER = network(1).state_dict(), network(2).state_dict()


def below(prefix, tensors):
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def taken(found, tmp_path, entry=None):
    """Which of the two networks a merge takes, and its notes; `inspect` has to tell the same."""
    torch.save(found, tmp_path / "x.pth")
    source = {"id": str(tmp_path / "x.pth"), "entry": entry}
    model = MedMergeModel.from_sources([network(0), source], num_labels=2, init=1.0)
    weight = model.plain_model().timm_model.conv1[0].weight
    which = next(
        n for n, t in {"one": ONE, "other": OTHER}.items() if torch.allclose(weight, t["conv1.0.weight"], atol=1e-6)
    )
    report = inspect_sources([network(0), source]).sources[1]
    assert report.problem is None
    notes = model.config.sources[1]["notes"]
    assert [note for note in notes if "entry" in note] == [note for note in report.notes if "entry" in note]
    assert model.config.sources[1]["entry"] == entry
    return which, "; ".join(notes)


PAIRS = {
    "timm": {"state_dict": ONE, "state_dict_ema": OTHER, "epoch": 3, "arch": "resnet"},
    "model_ema": {"model": ONE, "model_ema": OTHER},
    "ema": {"net": ONE, "ema": OTHER},
    "nested": {"checkpoint": {"model": ONE, "ema": OTHER}, "epoch": 1},
    "dino": {"student": below("module.backbone", OTHER), "teacher": below("backbone", ONE), "epoch": 3},
    "optimizer": {"optimizer": {"state": {0: {"exp_avg": OTHER["conv1.0.weight"]}}}, "state_dict": ONE},
    "lightning": {"state_dict": {**below("model", ONE), **below("ema_model", OTHER)}, "global_step": 3},
    "moco": {
        "state_dict": {
            **below("module.encoder_q", ONE),
            **below("module.encoder_k", OTHER),
            "module.queue": torch.zeros(8, 16),
            "module.queue_ptr": torch.zeros(1, dtype=torch.long),
        }
    },
    "dinov2": {"model": {**below("teacher.backbone", ONE), **below("student.backbone", OTHER)}},
    "solo": {"state_dict": {**below("backbone", ONE), **below("momentum_backbone", OTHER)}},
}

WORDS = {
    **{
        "timm": "state_dict_ema",
        "model_ema": "model_ema",
        "ema": "ema",
        "nested": "checkpoint.ema",
        "dino": "student",
    },
    **{"lightning": "ema_model", "moco": "encoder_k", "dinov2": "student", "solo": "momentum_backbone"},
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_usual_network_of_a_pair_is_taken_and_told(name, tmp_path):
    which, notes = taken(PAIRS[name], tmp_path)
    assert which == "one"
    assert "entry '" in notes
    if name in WORDS:
        assert WORDS[name] in notes


@pytest.mark.parametrize("name", WORDS)
def test_the_other_network_of_a_pair_is_taken_by_its_word(name, tmp_path):
    which, notes = taken(PAIRS[name], tmp_path, WORDS[name])
    assert which == "other"
    assert f"entry {WORDS[name]!r} read" in notes


@pytest.mark.parametrize(
    "key",
    ["ema", "state_dict_ema", "encoder", "backbone", "target_encoder", "params", "weights", "module", "whatever"],
)
def test_the_one_network_of_a_file_is_opened_whatever_its_name(key, tmp_path):
    assert taken({key: ONE, "epoch": 3, "best": 0.5}, tmp_path) == ("one", taken({key: ONE}, tmp_path)[1])


def test_two_networks_of_unknown_names_are_refused_by_their_names(tmp_path):
    torch.save({"netG": ONE, "netD": OTHER}, tmp_path / "x.pth")
    with pytest.raises(CorruptSourceError, match=r"'netG', 'netD'.*entry='netG'"):
        MedMergeModel.from_sources([network(0), str(tmp_path / "x.pth")], num_labels=2)
    assert taken({"netG": ONE, "netD": OTHER}, tmp_path, "netG")[0] == "one"


def test_an_entry_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    with pytest.raises(CorruptSourceError, match=r"no entry 'emma'.*'state_dict', 'state_dict_ema'"):
        taken(PAIRS["timm"], tmp_path, "emma")
    save_file(below("encoder_q", ONE), tmp_path / "flat.safetensors")
    report = inspect_sources([network(0), {"id": str(tmp_path / "flat.safetensors"), "entry": "encoder_k"}]).sources[1]
    assert "'encoder_q'" in report.problem


def test_a_file_of_unknown_content_lists_its_entries():
    with pytest.raises(CorruptSourceError, match=r"epoch \(int\), best \(float\), log \(list\)"):
        choose_entry({"epoch": 3, "best": 0.5, "log": []}, None, "a.pth")


def test_what_only_the_training_needs_is_dropped_with_a_note(tmp_path):
    extra = {
        "decoder_embed.weight": torch.zeros(4, 4),
        "decoder_blocks.0.attn.qkv.weight": torch.zeros(4, 4),
        "decoder_pos_embed": torch.zeros(1, 4, 4),
        "mask_token": torch.zeros(1, 1, 4),
    }
    which, notes = taken({"model": ONE | extra}, tmp_path)
    assert which == "one"
    assert "dropped 4 tensors of its training (decoder_embed, decoder_blocks, decoder_pos_embed, mask_token)" in notes
    simclr = {**below("backbone", ONE), "projection_head.layers.0.weight": torch.zeros(4, 4)}
    assert "projection_head" in taken({"state_dict": simclr}, tmp_path)[1]


def test_every_pair_of_names_is_told_apart():
    for mine, other in TWINS:
        found, notes = choose_entry({**below(mine, ONE), **below(other, OTHER)}, None, "a.pth")
        assert torch.equal(found["conv1.0.weight"], ONE["conv1.0.weight"]), (mine, other)
        assert notes == [f"entry {mine!r} read, not {other!r} (entry={other!r} takes that)"]
        found, _ = choose_entry({**below(mine, ONE), **below(other, OTHER)}, other, "a.pth")
        assert torch.equal(found["conv1.0.weight"], OTHER["conv1.0.weight"]), (mine, other)


def test_an_entry_is_part_of_a_source_in_a_config(tmp_path):
    torch.save(PAIRS["timm"], tmp_path / "x.pth")
    source = json.loads(json.dumps({"id": str(tmp_path / "x.pth"), "entry": "state_dict_ema"}))
    model = MedMergeModel.from_sources([network(0), source], num_labels=2)
    assert model.config.to_dict()["sources"][1]["entry"] == "state_dict_ema"
