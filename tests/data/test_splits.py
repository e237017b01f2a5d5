import numpy as np
import pytest
from data_files import pictures, table
from hypothesis import given, settings
from hypothesis import strategies as st

from medmerge_hf.data import load_target
from medmerge_hf.data.splits import SYNONYMS, assign, bound_units, draw, few, split_of
from medmerge_hf.errors import DataError


@pytest.mark.parametrize(("split", "word"), [(split, word) for split, words in SYNONYMS.items() for word in words])
def test_a_split_is_known_in_any_spelling(split, word):
    for spelling in (word.title(), word.upper(), f" {word} ", f"{word}_set", f"{word}-images", f"{word} split"):
        assert split_of(spelling) == split


def test_splits_that_nobody_knows_are_refused_with_their_count():
    words = ["train", "extra", "train", None, "extra"]
    with pytest.raises(DataError, match=r"2 images of split 'extra' \(the first is row 1\), 1 images with an empty"):
        assign(words, [f"row {index}" for index in range(5)], "t.csv")
    with pytest.raises(DataError, match="no training split"):
        assign(["test", "val"], ["a", "b"], "t.csv")


@settings(deadline=None, max_examples=60)
@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=60),
    fraction=st.floats(0.05, 0.9),
    groups=st.integers(1, 30),
    seed=st.integers(0, 3),
)
def test_a_draw_keeps_units_whole_and_every_class_in_training(labels, fraction, groups, seed):
    counts = np.eye(5)[labels]
    units = bound_units(np.random.default_rng(seed).integers(0, groups, len(labels)).tolist())
    taken = draw(counts, units, fraction, seed)
    assert not set(units[taken]) & set(units[~taken])
    assert (counts[~taken].sum(0) > 0).tolist() == (counts.sum(0) > 0).tolist()
    assert (draw(counts, units, fraction, seed) == taken).all()


@settings(deadline=None, max_examples=40)
@given(sizes=st.lists(st.integers(1, 9), min_size=3, max_size=9), fraction=st.floats(0.1, 0.9))
def test_groups_come_as_near_to_the_share_as_any_choice_of_them(sizes, fraction):
    units = np.repeat(np.arange(len(sizes)), sizes)
    labels = np.ones((len(units), 1))
    taken = draw(labels, units, fraction, 0).sum()
    bits = [np.array(list(np.binary_repr(n, len(sizes))), dtype=int) for n in range(1, 2 ** len(sizes) - 1)]
    sums = {int(chosen @ sizes) for chosen in bits}
    best = min(abs(total - fraction * len(units)) for total in sums)
    assert abs(taken - fraction * len(units)) <= best + 1e-9


@pytest.mark.parametrize("share", [0.1, 0.2, 0.4, 0.7])
def test_single_images_are_drawn_by_class(share):
    labels = np.eye(3)[[0] * 100 + [1] * 40 + [2] * 10]
    taken = draw(labels, np.arange(150), share, 0)
    assert np.abs(labels[taken].sum(0) - share * labels.sum(0)).max() <= 1


def test_a_label_that_stands_once_stays_in_training(tmp_path):
    names = pictures(tmp_path, 40)
    labels = ["a|rare" if index == 3 else "ab"[index % 2] for index in range(40)]
    file = table(tmp_path / "t.csv", image=names, label=labels)
    for seed in range(6):
        target = load_target(file, multi_label=True, validation_fraction=0.3, seed=seed)
        assert np.array(target["train"]["label"]).sum(0).tolist()[2] == 1
        assert abs(len(target["validation"]) - 12) <= 1


def test_equal_images_stay_together(tmp_path):
    import shutil

    names = pictures(tmp_path, 20)
    for name in names:
        shutil.copy(tmp_path / name, tmp_path / f"copy{name}")
    file = table(tmp_path / "t.csv", image=[*names, *(f"copy{name}" for name in names)], label=["a", "b"] * 20)
    target = load_target(file, test_fraction=0.2)
    seen = {split: {np.asarray(image).tobytes() for image in rows["image"]} for split, rows in target.items()}
    assert sum(len(images) for images in seen.values()) == len(set().union(*seen.values())) == 20


def test_a_share_that_groups_do_not_allow_is_told(tmp_path, caplog):
    names = pictures(tmp_path, 10)
    file = table(tmp_path / "t.csv", image=names, label=["a", "b"] * 5, patient=["p"] * 6 + ["q"] * 4)
    assert len(load_target(file, group_column="patient", validation_fraction=0.2)["validation"]) == 4
    assert "a share of 0.400 of the images" in caplog.text


def test_images_that_must_all_stay_together_cannot_be_split(tmp_path):
    file = table(tmp_path / "t.csv", image=pictures(tmp_path, 6), label=["a", "b"] * 3, patient=["p"] * 6)
    with pytest.raises(DataError, match=r"no validation split can be taken.*t\.csv row 2.* with 5 others"):
        load_target(file, group_column="patient")


def test_few_are_drawn_of_each_class():
    counts = np.eye(2)[[0] * 50 + [1] * 10]
    assert counts[few(counts, True, 0.1, 0)].sum(0).tolist() == [5, 1]
