"""Folders of pictures or DICOM files: `class/image` or `split/class/image`."""

from collections.abc import Sequence
from pathlib import Path

from ...errors import DataError
from ..listing import LeftOut, Listing, Reader, Request, image_cells, refuse_columns, tree
from ..splits import SYNONYMS, split_of


ADVICE = "An image folder is class/image or split/class/image; or list the images in a table."


def read(request: Request) -> Listing:
    """Every image; the class is the folder that it lies in.

    Raises:
        DataError: images lie in no class folder, or in folders that can be read in two ways.
    """
    root, found = request.path, tree(request.path)
    refuse_columns(
        request,
        "it is a folder of images, and no table in it has the columns of images and labels. List images, labels and "
        "groups in a table, or leave these options out.",
    )
    parts = [file.relative_to(root).parts for file in found.files]
    places = ["/".join(part) for part in parts]
    if not parts:
        raise DataError(f"{request.data!r} holds no images, DICOM files or tables.")
    _refuse_loose(parts, found.companions, request.data)
    depth = _depth(parts, request.data)
    folders = [folder.relative_to(root).parts for folder in found.folders]
    names = _sorted({folder[-1] for folder in folders if len(folder) == depth})
    if depth == 2:
        _check_splits([folder[0] for folder in folders if len(folder) == 1], parts, request.data)
        names = _sorted({folder[1] for folder in folders if len(folder) == 2 and split_of(folder[0])})
    indices = {name: index for index, name in enumerate(names)}
    companions = [LeftOut(file.relative_to(root).as_posix(), "no image", True) for file in found.companions]
    return Listing(
        image_cells([str(file) for file in found.files], Path.cwd(), places),
        [indices[part[-2]] for part in parts],
        places,
        [part[0] for part in parts] if depth == 2 else None,
        names=names,
        left_out=[*found.left_out, *companions],
    )


def _refuse_loose(parts: Sequence[tuple[str, ...]], companions: Sequence[Path], data: str) -> None:
    """Images that lie in no class folder, beside or below splits."""
    splits = {part[0] for part in parts if len(part) > 2 and split_of(part[0])}
    loose = ["/".join(part) for part in parts if len(part) == 1 or (len(part) == 2 and part[0] in splits)]
    if loose:
        tables = {file.name: columns for file in companions if (columns := columns_of(file))}
        told = "".join(
            f" The table {name} has the columns {columns}: set image_column and label_column to two of these."
            for name, columns in list(tables.items())[:1]
        )
        raise DataError(
            f"{data!r}: {len(loose)} images lie in no class folder, {loose[0]} for example: there is nothing to "
            f"classify by, it has no column 'label'. {ADVICE}{told}"
        )


def columns_of(file: Path) -> list[str]:
    """Names of the columns of a table; none of anything else."""
    from . import reader_of_file

    reader = reader_of_file(file.name)
    try:
        return reader.columns(file) if reader and reader.columns else []
    except DataError:
        return []


def _depth(parts: Sequence[tuple[str, ...]], data: str) -> int:
    """How many folders lie above each image: 1 (class) or 2 (split and class).

    Raises:
        DataError: more, or different ones; the message names the readings.
    """
    depths = {len(part) - 1 for part in parts}
    tops = sorted({part[0] for part in parts})
    splits = [top for top in tops if split_of(top)]
    if depths == {1} and len(splits) < len(tops):
        return 1
    if depths == {2} and splits:
        return 2
    deepest = max(parts, key=len)
    if depths == {1}:
        raise DataError(
            f"{data!r}: the folders {', '.join(tops)} are called like splits, and images lie in them without a class "
            f"folder. If they are splits, the classes are missing; if they are classes, rename them. {ADVICE}"
        )
    if not splits and len(tops) == 1:
        raise DataError(f"{data!r}: all images lie in {tops[0]!r}; point at {data.rstrip('/')}/{tops[0]}. {ADVICE}")
    level = 1 if splits else 0
    first, last = (_shown({part[at] for part in parts if len(part) > level + 1}) for at in (level, -2))
    raise DataError(
        f"{data!r}: {'/'.join(deepest)} can be read in two ways: as an image of class {deepest[level]!r} (then the "
        f"classes are {first}) or of class {deepest[-2]!r} (then they are {last}). Move the images up or rename the "
        f"folders, so that each class is one folder. {ADVICE}"
    )


def _check_splits(tops: Sequence[str], parts: Sequence[tuple[str, ...]], data: str) -> None:
    """Every folder of a split has images, and every folder of images is a split."""
    filled = {part[0] for part in parts}
    hollow = [top for top in tops if split_of(top) and top not in filled]
    if hollow:
        raise DataError(
            f"{data!r}: the folder {hollow[0]!r} of split {split_of(hollow[0])!r} has no image. Remove it."
        )
    unknown = sorted(top for top in filled if not split_of(top))
    if unknown:
        number = sum(part[0] in unknown for part in parts)
        raise DataError(
            f"{data!r}: {number} images lie in {', '.join(unknown)}, which is called like no split ("
            f"{', '.join(SYNONYMS)} and the like). Rename or remove it, or make it a class of a split."
        )


def _sorted(names: set[str]) -> list[str]:
    """Names in their order; numbers in that of numbers."""
    if all(name.isascii() and name.isdigit() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _shown(names: set[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:5]) + (f" and {len(ordered) - 5} more" if len(ordered) > 5 else "")


READER = Reader("folder of images", read, folder=lambda request: request.path.is_dir(), rank=2)
