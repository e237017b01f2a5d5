import copy
import json
from pathlib import Path

import pytest


NOTEBOOK = Path(__file__).parents[1] / "docs" / "quickstart.ipynb"


def kinds(cell):
    """What a cell leaves: pictures and texts in their order."""
    return ["picture" if "image/png" in output.get("data", {}) else "text" for output in cell["outputs"]]


def test_every_picture_of_the_notebook_has_words_and_every_output_is_stored():
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert ("picture" in kinds(cell)) == bool(cell["metadata"].get("alt"))
        assert not any("/tmp/" in json.dumps(output) for output in cell["outputs"])


@pytest.mark.slow
def test_the_notebook_runs_and_leaves_what_is_stored():
    client, formats = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    stored = formats.read(NOTEBOOK, as_version=4)
    place = {"metadata": {"path": str(NOTEBOOK.parent)}}
    options = {"timeout": 600, "kernel_name": "python3", "coalesce_streams": True, "resources": place}
    found = client.NotebookClient(copy.deepcopy(stored), **options).execute()
    for before, now in zip(stored.cells, found.cells, strict=True):
        if before.cell_type == "code":
            assert kinds(now) == kinds(before), now.source
