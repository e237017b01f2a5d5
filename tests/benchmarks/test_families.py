import csv
import os
import time
from pathlib import Path

import families
import pytest
from families import FIELDS, counts, everything, faults, main, table, walk_apart
from family_walk import COLUMNS


ROW = dict.fromkeys(FIELDS, "") | {"library": "timm", "name": "resnet", "network": "resnet18", "sources": "ok"}


def test_a_cell_is_ok_or_a_refusal_that_says_why_or_a_fault():
    named = "refused: transformers cannot build DinatForImageClassification (natten is not there)."
    assert faults({**ROW, "align": named}) == {}
    assert faults({**ROW, "align": "refused: no"}) == {"align": "refused: no"}
    assert faults({**ROW, "export": "FAULT: KeyError: 'x'"}) == {"export": "FAULT: KeyError: 'x'"}


def test_reasons_stand_below_the_table():
    rows = [ROW, {**ROW, "name": "dinat", "sources": "refused: a library is missing"}]
    assert "| refused (1)" in table(rows)
    assert table(rows).endswith("1. a library is missing")
    assert "| sources | 1  | 1       | 0" in counts(rows)


@pytest.mark.parametrize(
    ("walk", "why"),
    [(lambda *_: os._exit(3), "the process ended with 3"), (lambda *_: time.sleep(60), "not finished after 0.2 s")],
)
def test_a_family_that_crashes_or_never_ends_is_a_row(monkeypatch, walk, why):
    monkeypatch.setattr(families, "walk_one", walk)
    assert faults(walk_apart("timm", "resnet", seconds=0.2 if "finished" in why else 60)) == {
        "sources": f"FAULT: {why}"
    }


def test_rows_are_kept_and_not_walked_again(monkeypatch, tmp_path):
    walked = []
    monkeypatch.setattr(families, "RECORD", tmp_path / "families.csv")
    monkeypatch.setattr(families, "REPORT", tmp_path / "FAMILIES.md")
    monkeypatch.setattr(families, "everything", lambda: [("timm", "resnet"), ("timm", "vgg")])
    monkeypatch.setattr(families, "walk_apart", lambda library, name: walked.append(name) or {**ROW, "name": name})
    main(["--names", "vgg"])
    main([])
    assert walked == ["vgg", "resnet"]
    with (tmp_path / "families.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["resnet", "vgg"]
    assert "## timm: the smallest network of every module (2)" in (tmp_path / "FAMILIES.md").read_text()


def test_no_kept_row_is_a_fault(monkeypatch):
    monkeypatch.setattr(families, "RECORD", Path(__file__).parents[2] / "benchmarks" / "families.csv")
    kept = families.read_rows()
    assert {row["library"] for row in kept} == {"timm", "transformers"}
    assert {row["name"]: faults(row) for row in kept if faults(row) or not row["sources"]} == {}


@pytest.mark.slow
@pytest.mark.parametrize(("library", "name"), everything())
def test_a_family_goes_through_a_whole_merge_or_is_refused_with_the_reason(library, name):
    row = walk_apart(library, name)
    assert row["sources"]
    assert faults(row) == {}, {column: row[column] for column in COLUMNS}
