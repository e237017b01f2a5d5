"""What lies at a place, by its first bytes and never by its name; what the card beside it says."""

import dataclasses
import json
import logging
import shlex
import zipfile
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import CorruptSourceError


logger = logging.getLogger(__name__)


START = 512  # bytes of a file that tell its format; HDF5 may begin at 512

# How much larger than the file its content may become. torch writes its zips uncompressed.
ZIP_FACTOR = 4

ZIP_ENTRIES = 100_000


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a source lies, and what tells its format.

    Args:
        where: a file, a folder, or a network in memory.
        start: the first bytes of a file.
        members: names in a file that is a zip.
        config: `config.json` of a folder.
        headers: of a folder whose weights lie elsewhere (on the Hub), their names as empty tensors.
    """

    where: "Path | nn.Module"
    start: bytes = b""
    members: tuple[str, ...] = ()
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    headers: "dict[str, Tensor] | None" = None

    @classmethod
    def of(cls, where: "Path | nn.Module") -> "Place":
        """Look at a place.

        Raises:
            CorruptSourceError: it cannot be read, or is a zip that would fill the memory.
        """
        if isinstance(where, nn.Module):
            return cls(where)
        if where.is_dir():
            return cls(where, config=read_json(where / "config.json"))
        try:
            with where.open("rb") as stream:
                start = stream.read(START)
        except OSError as error:
            raise CorruptSourceError(f"Source {str(where)!r} cannot be read ({error}).") from error
        return cls(where, start, zip_members(where))

    @property
    def path(self) -> Path:
        """The file or folder."""
        assert isinstance(self.where, Path)
        return self.where

    def has(self, *endings: str) -> bool:
        """Whether a zip has members of these names, in whichever folder."""
        return all(any(f"/{name}".endswith(f"/{ending}") for name in self.members) for ending in endings)


def read_json(file: Path) -> dict[str, Any]:
    """A config file.

    Raises:
        CorruptSourceError: it is not there, or no JSON object.
    """
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptSourceError(f"{file} cannot be read as JSON ({error}).") from error
    if not isinstance(found, dict):
        raise CorruptSourceError(f"{file} holds a JSON {type(found).__name__}, no object.")
    return found


def zip_members(file: Path) -> tuple[str, ...]:
    """What a zip (the container of torch and Keras) holds.

    Args:
        file: any file.

    Returns:
        Names; none of a file that is no zip.

    Raises:
        CorruptSourceError: its content is many times larger than itself, or its table of contents is broken.
    """
    try:
        if not zipfile.is_zipfile(file):
            return ()
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except Exception as error:  # whatever zipfile raises on a broken table
        raise CorruptSourceError(
            f"Source {str(file)!r} is a zip whose table of contents cannot be read ({error}). Download it again."
        ) from error
    size, content = file.stat().st_size, sum(entry.file_size for entry in entries)
    if content > ZIP_FACTOR * size + 1_000_000 or len(entries) > ZIP_ENTRIES:
        raise CorruptSourceError(
            f"Source {str(file)!r} would unpack to {content} bytes in {len(entries)} files from {size} bytes: a zip "
            "bomb, or no checkpoint. Take the checkpoint from its origin again."
        )
    return tuple(entry.filename for entry in entries)


# Formats that nobody here reads: what the first bytes, or the names in a zip, tell, and the way out.
TENSORFLOW = "Save it as Keras weights where it was trained, model.save('model.keras'), and name that file."

FOREIGN: tuple[tuple[str, str, str], ...] = (
    ("version https://git-lfs", "a Git LFS pointer", "Fetch the file itself (`git lfs pull`, or `hf download`)."),
    ("<!DOCTYPE", "a web page", "Download the file that the page links to."),
    ("<html", "a web page", "Download the file that the page links to."),
    ("GGUF", "a GGUF file of quantised weights", "Take the floating point checkpoint that it was made from."),
    ("\x93NUMPY", "one NumPy array", "Save the network's tensors under their names, with safetensors."),
    ("\x1f\x8b", "a gzip archive", "Unpack it and name the checkpoint inside."),
    ("7z\xbc\xaf", "a 7-Zip archive", "Unpack it and name the checkpoint inside."),
    ("Rar!", "a RAR archive", "Unpack it and name the checkpoint inside."),
    ("BZh", "a bzip2 archive", "Unpack it and name the checkpoint inside."),
    ("\xfd7zXZ", "an xz archive", "Unpack it and name the checkpoint inside."),
    ("%PDF", "a PDF", "Name the checkpoint."),
)


def foreign_kind(place: Place) -> tuple[str, str] | None:
    """What a file is that nobody here reads, and the way out.

    Args:
        place: of the file.

    Returns:
        The two; `None` where the first bytes tell nothing.

    Example:
        >>> foreign_kind(Place(Path("a.pth"), b"GGUF...."))[0]
        'a GGUF file of quantised weights'
    """
    start = place.start.decode("latin-1")
    for magic, what, way_out in FOREIGN:
        if start.startswith(magic):
            return what, way_out
    if not start:
        return "an empty file", "Download it again."
    if start[4:8] == "TFL3":
        return "a TensorFlow Lite model", TENSORFLOW
    if start[257:262] == "ustar":
        return "a tar archive", "Unpack it and name the checkpoint inside."
    if place.has("saved_model.pb"):
        return "a zipped TensorFlow SavedModel", TENSORFLOW
    if any(name.endswith(".npy") for name in place.members):
        return "a NumPy archive (.npz)", _arrays_saved(place.path)
    if place.members:
        return f"a zip of {', '.join(place.members[:3])}", "Unpack it and name the checkpoint inside."
    text = place.start.translate(None, b"\r\n\t").decode("ascii", errors="replace")
    if text.isprintable() and text.isascii():
        return f"a text file that begins with {start[:30]!r}", "Download the file that it speaks of."
    return None


def _arrays_saved(file: Path) -> str:
    out = str(file.with_suffix(".safetensors"))
    code = f"import numpy, safetensors.numpy as s; s.save_file(dict(numpy.load({str(file)!r})), {out!r})"
    return f"Save its arrays as safetensors: `{shlex.join(['python', '-c', code])}`; then name {out!r} instead."


def advice(file: "Path | str") -> str:
    """The command that makes a source of a file, for the end of a refusal."""
    name = Path(file)
    for suffix in (".safetensors", ".pth", ".pt", ".pt2", ".bin", ".ckpt", ".pkl", ".onnx"):
        name = name.with_name(name.name.removesuffix(suffix))
    out = name.with_name(f"{name.name}.tensors.safetensors")
    command = shlex.join(["python", "-m", "medmerge_hf.sources.extract", str(file), str(out)])
    return f"To take its tensors alone, without running anything of it: `{command}`; then name {str(out)!r} instead."


def read_card(folder: Path) -> Any:
    """What the metadata of a model's card says (`get`); nothing where there is no readable card."""
    from huggingface_hub import ModelCard

    try:
        return ModelCard.load(folder / "README.md", ignore_metadata_errors=True).data
    except (OSError, ValueError):
        logger.debug("%s has no readable card", folder)
        return {}


def read_license(folder: Path) -> str | None:
    """The licence that a model's card or timm config states, as the Hub calls it."""
    stated = read_card(folder).get("license")
    stated = stated or (read_json(folder / "config.json").get("pretrained_cfg") or {}).get("license")
    return stated if isinstance(stated, str) else None


def base_models(folder: Path) -> list[str]:
    """What a model's card says that it was made of."""
    found = read_card(folder).get("base_model")
    return [found] if isinstance(found, str) else list(found or [])
