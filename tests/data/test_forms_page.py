"""The table of docs/data.md is what the script prints that runs every case of it."""

import logging
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]


def test_the_page_on_forms_of_data_says_what_happens(monkeypatch):
    pytest.importorskip("openpyxl", reason="needs openpyxl: pip install 'medmerge_hf[tables]'")
    pytest.importorskip("pydicom", reason="needs pydicom: pip install 'medmerge_hf[dicom]'")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    import data_forms

    logging.getLogger("medmerge_hf.data").setLevel(logging.ERROR)
    try:
        printed = [data_forms.HEAD, *data_forms.rows()]
    finally:
        logging.getLogger("medmerge_hf.data").setLevel(logging.NOTSET)
    assert len(printed) > 50
    assert "\n".join(printed) in (ROOT / "docs" / "data.md").read_text()
