import logging

import numpy as np
import pytest
from test_data import save_npz

from medmerge_hf.data import load_target
from medmerge_hf.errors import DataError


def test_images_that_stand_in_two_splits_are_found_and_can_be_left_out(tmp_path, caplog):
    random = np.random.default_rng(1)
    val = random.integers(0, 255, (6, 8, 8), dtype=np.uint8)
    test = np.concatenate([val[:1], random.integers(0, 255, (5, 8, 8), dtype=np.uint8)])
    labels = np.arange(6)[:, None] % 3
    file = save_npz(tmp_path / "a.npz", val_images=val, val_labels=labels, test_images=test, test_labels=labels)
    with caplog.at_level(logging.WARNING):
        whole = load_target(file)
    assert "1 images of split 'validation' also stand in a split that is held back" in caplog.text
    assert len(whole["validation"]) == 6
    assert len(load_target(file, drop_duplicates=True)["validation"]) == 5


def test_few_labels_keep_every_class_and_the_whole_test_split(tmp_path):
    images = np.random.default_rng(2).integers(0, 255, (6, 8, 8), dtype=np.uint8)
    split = {"test_images": images, "test_labels": np.arange(6)[:, None] % 3}
    file = save_npz(tmp_path / "a.npz", train=60, **split)
    few = load_target(file, label_fraction=0.1)
    assert sorted(few["train"]["label"]) == [0, 0, 1, 1, 2, 2]
    assert len(few["validation"]) == 3
    assert len(few["test"]) == 6
    other = load_target(file, label_fraction=0.1, seed=1)
    assert [np.asarray(i).sum() for i in few["train"]["image"]] != [
        np.asarray(i).sum() for i in other["train"]["image"]
    ]


def test_a_share_out_of_range_is_refused(tmp_path):
    with pytest.raises(DataError, match="label_fraction=0"):
        load_target(save_npz(tmp_path / "a.npz"), label_fraction=0)
