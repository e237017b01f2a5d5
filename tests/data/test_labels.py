from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmerge_hf.data.labels import read_labels
from medmerge_hf.data.listing import Listing, image_cells, is_missing
from medmerge_hf.errors import DataError


def read(labels, several=False, names=None, untyped=False):
    places = [f"row {index}" for index in range(len(labels))]
    return read_labels(Listing(None, labels, places, names=names, untyped=untyped), several, "data")


@pytest.mark.parametrize(
    ("labels", "names", "indices"),
    [
        ([0, 1, 2, 1], ["0", "1", "2"], [0, 1, 2, 1]),
        ([0.0, 1.0], ["0", "1"], [0, 1]),
        ([True, False], ["False", "True"], [1, 0]),
        ([[1], [0]], ["0", "1"], [1, 0]),
        ([np.int64(1), np.float32(0)], ["0", "1"], [1, 0]),
        (["NA", "None", "nan", "null"], ["NA", "None", "nan", "null"], [0, 1, 2, 3]),
        (["10", "9"], ["10", "9"], [0, 1]),
        ([Decimal("1"), Decimal("0.0")], ["0", "1"], [1, 0]),
        ([b"ill", b"well"], ["ill", "well"], [0, 1]),
        (
            ["Cat", " cat", "\u00e9", "e\u0301", "-", "1e0"],
            [" cat", "-", "1e0", "Cat", "e\u0301", "\u00e9"],
            [3, 0, 5, 4, 1, 2],
        ),
    ],
)
def test_labels_are_what_their_type_says(labels, names, indices):
    found = read(labels)
    assert found.names == names
    assert found.column() == indices


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["0", "1", "10", *map(str, range(2, 10))], [str(index) for index in range(11)]),
        (["0.0", "1.0"], ["0", "1"]),
        (["01", "02"], ["01", "02"]),
        (["1", "NV"], ["1", "NV"]),
        (["True", "False"], ["False", "True"]),
    ],
)
def test_text_without_types_is_numbers_where_all_of_it_reads_so(labels, names):
    assert read(labels, untyped=True).names == names


def test_stated_names_keep_their_order():
    assert read([1, 0], names=["malignant", "benign"]).names == ["malignant", "benign"]
    several = read([[2], [0, 1], []], several=True, names=["c", "b", "a"])
    assert several.names == ["c", "b", "a"]
    assert several.column() == [[0, 0, 1], [1, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("labels", "untyped", "names", "column"),
    [
        (["a|b", "b", None, "a "], True, ["a", "b"], [[1, 1], [0, 1], [0, 0], [1, 0]]),
        ([["b"], ["a", "b"]], False, ["a", "b"], [[0, 1], [1, 1]]),
        ([[0, 1, 1], [1, 0, 0]], False, ["0", "1", "2"], [[0, 1, 1], [1, 0, 0]]),
        ([[0.0, 1.0], [1.0, 0.0]], False, ["0", "1"], [[0, 1], [1, 0]]),
        (["[0, 1]", "[1, 1]"], True, ["0", "1"], [[0, 1], [1, 1]]),
        ([0, 2, 1], False, ["0", "1", "2"], [[1, 0, 0], [0, 0, 1], [0, 1, 0]]),
        ([[0, 2], [1]], False, ["0", "1", "2"], [[1, 0, 1], [0, 1, 0]]),
        (["0|2", "1"], True, ["0", "1", "2"], [[1, 0, 1], [0, 1, 0]]),
    ],
)
def test_an_image_may_have_several_labels(labels, untyped, names, column):
    found = read(labels, several=True, untyped=untyped)
    assert found.names == names
    assert found.column() == column


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0, None], {}, "row 1 is without a label"),
        (["a", " ", ""], {}, r"row 1 \(and 1 more\) is without a label"),
        ([[0, 1], [1, 0]], {}, "row 0 .* several labels.*multi_label=True"),
        (["[0, 1]", "[1, 1]"], {"untyped": True}, "multi_label=True"),
        ([5, 6, 7], {}, "run from 0 without a gap"),
        ([-1, 0], {}, "run from 0 without a gap"),
        ([0.5, 1], {}, "row 0 is of no class"),
        (["0.5", "1"], {"untyped": True}, "row 0 is of no class"),
        ([0, "a"], {}, "row 1 is not a number"),
        (["x" * 9999, None], {}, "row 1 is without a label"),
        (["x", ["y" * 9999, "z"]], {}, r"row 1 has several labels, its label is .{,300}write the place of the 1"),
        ([10**400, 0], {}, r"^.{,400}$"),
        ([Decimal("0.5"), 1], {}, "row 0 is of no class"),
        ([{"a": 1}, {"a": 2}], {}, r"row 0 \(and 1 more\) is of no class"),
        ([0, -1], {"names": ["a", "b"]}, r"row 1 has labels \['-1'\] outside 0\.\.1"),
        ([0, None], {"names": ["a", "b"]}, "row 1 is without a label"),
        ([[0.3, 0.7], [1, 0]], {"several": True}, "row 0 .*is of no class"),
        ([[0, 1], [-1, 0]], {"several": True}, "run from 0 without a gap"),
        ([[], None], {"several": True}, "no labels at all"),
        ([[0, [1, 0]]], {"several": True}, "list of lists"),
    ],
)
def test_what_is_no_label_is_refused_with_its_row(labels, options, message):
    with pytest.raises(DataError, match=message):
        read(labels, **options)


def test_names_that_look_alike_or_joined_are_told(caplog):
    read(["ill", "Ill", "a|b"])
    assert "'Ill' and 'ill' are two classes" in caplog.text
    assert "pass multi_label=True" in caplog.text


@pytest.mark.parametrize(("labels", "told"), [(["a,b", "c"], True), (["a;b", "c|d"], False), (["a|b", "c"], False)])
def test_another_sign_between_labels_is_told(caplog, labels, told):
    read(labels, several=True)
    assert ("write '|' between several" in caplog.text) == told


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats(-1, 2) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(labels=st.lists(JSON, min_size=1, max_size=8), several=st.booleans(), untyped=st.booleans())
def test_any_labels_are_read_or_refused(labels, several, untyped):
    try:
        found = read(labels, several, untyped=untyped)
    except DataError:
        return
    assert found.counts.shape == (len(labels), len(found.names))
    assert len(set(found.names)) == len(found.names)
    filled = [not is_missing(label) and label != [] for label in labels if not isinstance(label, list)]
    assert not filled or several or all(filled)


def test_cells_of_images_are_paths_bytes_and_arrays(tmp_path):
    cells = image_cells(["a.png", b"x", [[0, 1]], None, {"bytes": b"y", "path": "b"}], tmp_path, "abcde")["image"]
    assert cells[0] == {"bytes": None, "path": str(tmp_path / "a.png")}
    assert cells[3] is None
    assert [cell["path"] for cell in (cells[1], cells[2], cells[4])] == [None, None, None]
    assert cells[2]["bytes"].startswith(b"\x93NUMPY")
