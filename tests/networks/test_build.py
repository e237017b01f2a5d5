import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmerge_hf.errors import SettingsError
from medmerge_hf.networks.build import class_names, target_labels


@given(st.lists(st.text(), min_size=1, unique=True), st.randoms())
def test_names_follow_their_index_in_whatever_order_they_come(names, random):
    pairs = list(enumerate(names))
    random.shuffle(pairs)
    labels = target_labels(None, dict(pairs))
    assert list(labels["id2label"].items()) == list(enumerate(names))
    assert labels["label2id"] == {name: index for index, name in enumerate(names)}
    assert class_names({str(index): name for index, name in pairs}) == labels["id2label"]


@pytest.mark.parametrize(
    "wrong", [{1: "a", 2: "b"}, {0: "a", 2: "b"}, {-1: "a", 0: "b"}, {0: "a", 0.5: "b"}, {"a": "0", "b": "1"}, {}]
)
def test_indices_that_are_not_0_to_k_are_refused(wrong):
    with pytest.raises(SettingsError, match=r"id2label has the indices .*0 to K - 1"):
        target_labels(None, wrong)


def test_two_classes_of_one_name_and_lists_of_names_are_refused():
    with pytest.raises(SettingsError, match="name 'a' to more than one class"):
        target_labels(None, {0: "a", 1: "b", 2: "a"})
    with pytest.raises(SettingsError, match="no mapping"):
        target_labels(None, ["a", "b"])
    with pytest.raises(SettingsError, match="num_labels=3 but id2label names 2"):
        target_labels(3, {0: "a", 1: "b"})
