import os
import subprocess
import sys

import pytest


# Ten tensors of 8 MB, freed and made again: how many pages the system maps for the fourth lot.
PAGES = """
import resource, sys, torch
from contextlib import nullcontext
from medmerge_hf.training.kept_memory import kept_memory

def lot():
    return [torch.ones(2 * 2**20) for _ in range(10)]

with kept_memory() if sys.argv[1] == "kept" else nullcontext(True) as kept:
    lot(), lot(), lot()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    lot()
    print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(way, **environment):
    own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", PAGES, way]
    done = subprocess.run(command, env={**own, **environment}, capture_output=True, text=True, check=True)
    kept, number = done.stdout.split()
    return kept == "True", int(number)


@pytest.mark.slow
def test_memory_that_was_freed_is_not_mapped_again():
    kept, number = pages("kept")
    if not kept:
        pytest.skip("this C library is not glibc")
    assert number < 500 < 5000 < pages("usual")[1]


@pytest.mark.slow
def test_what_the_environment_says_of_malloc_stays():
    assert pages("kept", MALLOC_ARENA_MAX="2")[0] is False
