"""`python -m medmerge_hf.sources.readers.hdf5_probe FILE`: read all of an HDF5 file and forget it.

The HDF5 library may loop for ever on a damaged file, or crash. That happens here, in a process that can be ended.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any


SECONDS, BYTES_A_SECOND = 60, 10_000_000


def probe(file: Path) -> None:
    """Read a file in another process.

    Args:
        file: HDF5.

    Raises:
        ValueError: it cannot be read to its end.
    """
    limit = SECONDS + file.stat().st_size / BYTES_A_SECOND
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__, str(file)], capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"HDF5 does not come to an end of it within {limit:.0f} s") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise ValueError(lines[-1][:200] if lines else f"HDF5 ends with {done.returncode}")


def _read(name: str, item: Any) -> None:
    dict(item.attrs)
    here = hasattr(item, "dtype") and not item.external and not item.is_virtual
    if here and item.nbytes <= 4 * Path(sys.argv[1]).stat().st_size + 1_000_000:  # the reader refuses larger ones
        item[()]


if __name__ == "__main__":
    import h5py

    with h5py.File(sys.argv[1], "r") as opened:
        dict(opened.attrs)
        opened.visititems(_read)
