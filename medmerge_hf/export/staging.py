"""Folders that are written apart and take their destination's place as a whole, whatever happens meanwhile."""

import functools
import glob
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


CARD = "README.md"

PAGE = "report.html"

# What an export is made of, by paths below its folder.
EXPORT_FILE = re.compile(
    r"README\.md|config\.json|preprocessor_config\.json|model(-\d+-of-\d+)?\.safetensors"
    r"|model\.safetensors\.index\.json|medmerge/[^/]+"
)


def export_files(folder: Path) -> list[str]:
    """Paths, below a folder, of its files that belong to an export."""
    found = [file for pattern in ("*", "medmerge/*") for file in folder.glob(pattern) if file.is_file()]
    paths = sorted(file.relative_to(folder).as_posix() for file in found)
    return [path for path in paths if EXPORT_FILE.fullmatch(path) or (path == PAGE and _is_ours(folder / path))]


def _is_ours(page: Path) -> bool:
    """Whether a page is one of a run: others may have a report of this name, which is left alone."""
    with open(page, "rb") as file:
        return b'name="generator" content="medmerge_hf"' in file.read(1000)


def replace_file(file: Path, text: str) -> None:
    """Write a file of an export that is in place: all of it or nothing, and never into the file that was there."""
    staged = file.with_name(f".{file.name}.tmp")
    staged.write_text(text)
    staged.replace(file)


@contextmanager
def staged_directory(destination: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder that takes the place of `destination` when the block ends without an error.

    An error (a full disk, a failed check, a kill) leaves `destination` as it was. A new folder appears as a whole; in
    an existing one each file is replaced at once, what is left of an earlier export goes and foreign files stay.

    Args:
        destination: the folder to write.

    Yields:
        The folder to write into.
    """
    destination = Path(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    staging, remove = hidden_folder(destination)
    try:
        yield staging
        _move_into_place(staging, destination)
    finally:
        remove()


def hidden_folder(destination: Path) -> tuple[Path, Callable[[], None]]:
    """An empty hidden folder on the file system of a destination; those that dead processes left there go.

    Args:
        destination: the folder that it is made for.

    Returns:
        The folder, which no other process removes as long as this one lives, and a function that removes it.
    """
    _remove_stale(destination)
    place = destination if _stays(destination) else destination.parent
    folder = place / f".{destination.name}-{uuid.uuid4().hex[:8]}.staging"
    lock = _lock_of(folder)
    lock.acquire()  # before the folder is there to be found
    folder.mkdir()
    return folder, functools.partial(_remove, folder, lock)


def _stays(destination: Path) -> bool:
    """Whether a folder is there that no other can be moved onto."""
    if not destination.is_dir():
        return False
    movable = os.access(destination.parent, os.W_OK) and not os.path.ismount(destination)
    return not movable or any(destination.iterdir())


def _lock_of(folder: Path) -> FileLock:
    return FileLock(f"{folder}.lock", thread_local=False)  # an upload ends in another thread


def _remove(folder: Path, lock: FileLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def _remove_stale(destination: Path) -> None:
    name = re.compile(rf"\.{re.escape(destination.name)}-\w{{8}}\.staging")
    for place in (destination, destination.parent):
        there = place.glob(f".{glob.escape(destination.name)}-*")
        for left in sorted({file.with_name(file.name.removesuffix(".lock")) for file in there}):
            if name.fullmatch(left.name):
                lock = _lock_of(left)
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue  # its process lives
                _remove(left, lock)


def _move_into_place(staging: Path, destination: Path) -> None:
    if not _stays(destination):
        os.replace(staging, destination)
        return
    new = [file.relative_to(staging) for file in sorted(staging.rglob("*")) if file.is_file()]
    for path in new:
        (destination / path).parent.mkdir(exist_ok=True)
        os.replace(staging / path, destination / path)
    for stale in set(export_files(destination)) - {path.as_posix() for path in new} - {CARD}:
        (destination / stale).unlink()
