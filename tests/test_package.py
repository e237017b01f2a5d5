import subprocess
import sys

import pytest

import medmerge_hf


def test_import_is_lazy():
    heavy = ("torch", "timm", "transformers", "datasets")
    script = f"import sys, medmerge_hf; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("name", [name for name in medmerge_hf.__all__ if name != "__version__"])
def test_every_public_name_resolves_and_is_documented(name):
    assert getattr(medmerge_hf, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing"):
        _ = medmerge_hf.nothing
