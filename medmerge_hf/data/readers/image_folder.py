"""Folders of pictures or DICOM files: `class/image` or `split/class/image`."""

import logging
from collections.abc import Sequence
from pathlib import Path

from ...errors import DataError
from ..listing import LeftOut, Listing, Reader, Request, Tree, image_cells, refuse_columns, tree
from ..splits import SYNONYMS, UNLABELLED, split_of, unlabelled_hint, word_without_label


logger = logging.getLogger(__name__)

ADVICE = "An image folder is class/image or split/class/image; or list the images in a table."


def read(request: Request) -> Listing:
    """Every image; the class is the folder that it lies in.

    Raises:
        DataError: images lie in no class folder, or in folders that can be read in two ways.
    """
    if request.label_column is None:
        return _all_images(request)
    root, found = request.path, tree(request.path)
    refuse_columns(
        request,
        "it is a folder of images, and no table in it has the columns of images and labels. List images, labels and "
        "groups in a table, or leave these options out.",
    )
    all_parts = [file.relative_to(root).parts for file in found.files]
    places = ["/".join(part) for part in all_parts]
    _refuse_nothing(places, request.data)
    bare = _without_class(all_parts) if request.unlabelled else set()
    parts = [part for part in all_parts if part not in bare]
    _refuse_loose(parts, found.companions, request.data)
    depth = _depth(parts, request.data)
    folders = [folder.relative_to(root).parts for folder in found.folders]
    folders = [folder for folder in folders if not (request.unlabelled and _is_unlabelled(folder))]
    names = _sorted({folder[-1] for folder in folders if len(folder) == depth})
    if depth == 2:
        filled = {part[0] for part in all_parts}
        hollow = [folder[0] for folder in folders if len(folder) == 1 and folder[0] not in filled]
        _check_splits(hollow, parts, request.data)
        names = _sorted({folder[1] for folder in folders if len(folder) == 2 and split_of(folder[0])})
    if any(split_of(name) == UNLABELLED for name in names):
        logger.warning("%s: the classes are %s: pass unlabelled=True if one is no class.", request.data, names)
    indices = {name: index for index, name in enumerate(names)}
    return Listing(
        image_cells([str(file) for file in found.files], Path.cwd(), places),
        [None if part in bare else indices[part[-2]] for part in all_parts],
        places,
        [_split(part, part in bare, depth) for part in all_parts] if depth == 2 or bare else None,
        names=names,
        left_out=_left_out(found, root),
    )


def _all_images(request: Request) -> Listing:
    """Every image, in whatever folder it lies."""
    root, found = request.path, tree(request.path)
    places = [file.relative_to(root).as_posix() for file in found.files]
    _refuse_nothing(places, request.data)
    cells = image_cells([str(file) for file in found.files], Path.cwd(), places)
    return Listing(cells, [None] * len(places), places, left_out=_left_out(found, root))


def _refuse_nothing(places: Sequence[str], data: str) -> None:
    if not places:
        raise DataError(f"{data!r} holds no images, DICOM files or tables.")


def _left_out(found: Tree, root: Path) -> list[LeftOut]:
    companions = [LeftOut(file.relative_to(root).as_posix(), "no image", True) for file in found.companions]
    return [*found.left_out, *companions]


def _without_class(parts: Sequence[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """Images that lie in no class folder, or in one that is called unlabelled."""
    return {*_loose(parts), *(part for part in parts if _is_unlabelled(part[:-1]))}


def _is_unlabelled(folders: Sequence[str]) -> bool:
    return any(split_of(folder) == UNLABELLED for folder in folders)


def _split(part: tuple[str, ...], bare: bool, depth: int) -> str:
    """The owner's word for the split of an image."""
    if bare:
        return word_without_label(part[:-1])
    return part[0] if depth == 2 else "train"


def _loose(parts: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Images in no class folder, beside or below splits."""
    splits = any(len(part) > 2 and split_of(part[0]) for part in parts)
    return [part for part in parts if len(part) == 1 or (len(part) == 2 and splits and split_of(part[0]))]


def _refuse_loose(parts: Sequence[tuple[str, ...]], companions: Sequence[Path], data: str) -> None:
    """Images that lie in no class folder, beside or below splits."""
    if not parts:
        raise DataError(f"{data!r}: no image lies in a class folder: there is nothing to classify by. {ADVICE}")
    found = _loose(parts)
    loose = ["/".join(part) for part in found]
    if loose:
        tables = {file.name: columns for file in companions if (columns := columns_of(file))}
        told = "".join(
            f" The table {name} has the columns {columns}: set image_column and label_column to two of these."
            for name, columns in list(tables.items())[:1]
        )
        raise DataError(
            f"{data!r}: {len(loose)} images lie in no class folder, {loose[0]} for example: there is nothing to "
            f"classify by, it has no column 'label'. {ADVICE}{told}{_advice(found, len(found) < len(parts))}"
        )


def _advice(bare: Sequence[tuple[str, ...]], others: bool) -> str:
    """What helps where these images have no class, and others have one."""
    helps = others and unlabelled_hint(word_without_label(part[:-1]) for part in bare)
    return " Or pass unlabelled=True to use images without a label." if helps else ""


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
    if splits and {len(part) - 1 for part in parts if part[0] in splits} == {2}:
        return 2  # and what lies beside the splits is refused
    deepest = max(parts, key=len)
    if depths == {1}:
        raise DataError(
            f"{data!r}: the folders {', '.join(tops)} are called like splits, and images lie in them without a class "
            f"folder. If they are splits, the classes are missing; if they are classes, rename them. {ADVICE}"
        )
    if not splits and len(tops) == 1:
        raise DataError(f"{data!r}: all images lie in {tops[0]!r}; point at {data.rstrip('/')}/{tops[0]}. {ADVICE}")
    level, bare = 1 if splits else 0, [part for part in parts if _is_unlabelled(part[:-1])]
    first, last = (_shown({part[at] for part in parts if len(part) > level + 1}) for at in (level, -2))
    raise DataError(
        f"{data!r}: {'/'.join(deepest)} can be read in two ways: as an image of class {deepest[level]!r} (then the "
        f"classes are {first}) or of class {deepest[-2]!r} (then they are {last}). Move the images up or rename the "
        f"folders, so that each class is one folder. {ADVICE}{_advice(bare, len(bare) < len(parts))}"
    )


def _check_splits(hollow: Sequence[str], parts: Sequence[tuple[str, ...]], data: str) -> None:
    """Every folder of a split has images, and every folder of images is a split."""
    for top in [top for top in hollow if split_of(top)]:
        raise DataError(f"{data!r}: the folder {top!r} of split {split_of(top)!r} has no image. Remove it.")
    unknown = sorted({part[0] for part in parts if not split_of(part[0])})
    if unknown:
        number = sum(part[0] in unknown for part in parts)
        raise DataError(
            f"{data!r}: {number} images lie in {', '.join(unknown)}, which is called like no split ("
            f"{', '.join(list(SYNONYMS)[:3])} and the like). Rename or remove it, or make it a class of a split; or "
            "call it unlabelled, and pass unlabelled=True."
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
