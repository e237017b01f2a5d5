import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from medmerge_hf.evaluation.counted import confusion_counts, counts_for_pictures, reliability
from medmerge_hf.evaluation.predictions import Predictions


@given(st.integers(1, 60), st.integers(2, 5), st.integers(0, 9))
def test_every_image_is_counted_once(images, classes, seed):
    random = np.random.default_rng(seed)
    logits, labels = random.normal(size=(images, classes)), random.integers(0, classes, images)
    seen = Predictions.of_logits(logits, labels)
    counts, points = confusion_counts(seen), reliability(seen)
    assert sum(count for *_, count in counts) == sum(count for *_, count in points) == images
    right = sum(count for true, predicted, count in counts if true == predicted)
    assert right == (logits.argmax(1) == labels).sum() == round(sum(share * count for _, share, count in points))
    assert [sure for sure, *_ in points] == sorted(sure for sure, *_ in points)


def test_each_of_several_labels_is_counted_by_itself():
    logits, labels = np.array([[1.0, -1], [1, 1], [-1, -1]]), np.array([[1, 0], [0, 1], [1, 0]])
    found = counts_for_pictures(logits, labels, multi_label=True)
    assert found["confusion"] == [[1, 1, 1, 0], [1, 0, 0, 2]]
    assert found["reliability"] == [[0.5, 0.5, 6]]
