"""The one gate: what leaves the room is checked on the final splits, whatever reader it came through.

Used and left out are together what lay there; nothing is left out unless that was asked for; no class, split or group
is lost or torn on the way.
"""

import dataclasses
import logging
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..errors import DataError
from .images import Look
from .labels import Labels
from .listing import UNLISTED, LeftOut, Listing, is_missing
from .splits import unlabelled_hint, word_without_label


logger = logging.getLogger(__name__)

Plan = dict[str, list[int]]
# How many are named one by one in the log; all are in `Target.left_out`.
NAMED = 20
PATH = re.compile(r"[/<\\][^'\">]*")
STRICTEST_FIRST = ("test", "validation", "train")
HELD_BACK = STRICTEST_FIRST[:2]


@dataclasses.dataclass
class Rows:
    """All rows that a reader found, and what became of them.

    Attributes:
        data: what the user asked for.
        places: how the owner finds each row.
        labels: of the rows.
        looks: at their images.
        groups: of the rows, where asked for.
        gone: row -> why it is left out.
    """

    data: str
    places: list[str]
    labels: Labels
    looks: list[Look]
    groups: list[str | None] | None
    gone: dict[int, LeftOut] = dataclasses.field(default_factory=dict)

    def leave_out(self, plan: Plan, rows: Mapping[int, str], expected: bool = False) -> Plan:
        """The plan without some rows, whose reasons are noted."""
        self.gone |= {row: LeftOut(self.places[row], reason, expected) for row, reason in rows.items()}
        return {split: [row for row in members if row not in rows] for split, members in plan.items()}


def read_groups(
    listing: Listing, column: str | None, data: str, bare: Collection[int] = ()
) -> list[str | None] | None:
    """Group of each row as text; whole numbers are written alike, however they were stored, blanks around it are not.

    Args:
        listing: of a reader.
        column: in which groups were looked for.
        data: what the user asked for.
        bare: rows without a label, which need none.

    Raises:
        DataError: a row has none.
    """
    if listing.groups is None:
        return None
    unknown = {index for index, value in enumerate(listing.groups) if is_missing(value)}
    if missing := sorted(unknown - set(bare)):
        raise DataError(
            f"{data!r}: {len(missing)} rows have no group in column {column!r}, the first is "
            f"{listing.places[missing[0]]}. Name the patient of every image, or take these rows out."
        )
    whole = [isinstance(value, float) and value.is_integer() for value in listing.groups]
    groups = [
        str(int(value) if is_whole else value).strip() for value, is_whole in zip(listing.groups, whole, strict=True)
    ]
    return [None if index in unknown else group for index, group in enumerate(groups)]


def leave_unreadable(rows: Rows, plan: Plan, skip: bool) -> Plan:
    """The plan without images that cannot be read.

    Raises:
        DataError: there are some, and `skip_unreadable` is not set.
    """
    broken = {index: look for index, look in enumerate(rows.looks) if look.problem}
    for split, members in plan.items():
        bad = [row for row in members if row in broken and not broken[row].no_image]
        if bad and not skip:
            raise DataError(
                f"{rows.data!r}: {len(bad)} images of split {split!r} cannot be read, the first is "
                f"{rows.places[bad[0]]}: {broken[bad[0]].problem}. Repair or remove "
                "them, or pass skip_unreadable=True."
            )
    plan = rows.leave_out(plan, {row: look.problem for row, look in broken.items() if not look.no_image})
    return rows.leave_out(plan, {row: look.problem for row, look in broken.items() if look.no_image}, expected=True)


def leave_duplicates(rows: Rows, plan: Plan) -> Plan:
    """The plan without images that also stand, pixel by pixel, in a stricter split."""
    twice = {row: f"stands in split {strict!r} too" for row, strict in _held_back(rows, plan).items()}
    return rows.leave_out(plan, twice, expected=True)


def _held_back(rows: Rows, plan: Plan) -> dict[int, str]:
    """Rows whose image stands in a split that is held back more strictly -> that split."""
    found: dict[int, str] = {}
    held: dict[str, str] = {}
    for split in STRICTEST_FIRST:
        digests = [(row, rows.looks[row].digest) for row in plan.get(split, ())]
        found |= {row: held[digest] for row, digest in digests if digest in held}
        for _, digest in digests:
            held.setdefault(digest, split)
    return found


def check_vanished(rows: Rows, before: Plan, after: Plan) -> None:
    """Nothing that an owner would call a part of the data is left out as a whole.

    Raises:
        DataError: a split, or a class of a split, was there and no image of it is left.
    """
    for split, members in before.items():
        there, left = (rows.labels.counts[plan[split]].sum(0) for plan in (before, after))
        lost = [name for name, one, two in zip(rows.labels.names, there, left, strict=True) if one and not two]
        if lost or (members and not after[split]):
            first = rows.gone[next(row for row in members if row in rows.gone)]
            raise DataError(
                f"{rows.data!r}: all images of class {', '.join(lost)} in split {split!r} would be left out, the "
                f"first is {first.what}: {first.reason}. Repair them, or take the class out of every split."
            )


def refuse_files(listed: Sequence[LeftOut], skip: bool, data: str) -> None:
    """Files that may be images are used.

    Raises:
        DataError: a reader leaves one out, and `skip_unreadable` is not set.
    """
    files = [one for one in listed if not one.expected]
    if files and not skip:
        words = [word_without_label(Path(one.what).parts[:-1]) for one in files if one.reason == UNLISTED]
        also = "unlabelled=True or " if unlabelled_hint(words) else ""
        raise DataError(
            f"{data!r}: {len(files)} files would be left out, the first is {files[0].what}: {files[0].reason}. "
            f"Use or remove them, or pass {also}skip_unreadable=True."
        )


def report(rows: Rows, listed: Sequence[LeftOut]) -> list[tuple[str, str]]:
    """Tell what is left out, with a count of each reason.

    Returns:
        What, and why.
    """
    left_out = [*listed, *(rows.gone[row] for row in sorted(rows.gone))]
    for one in [one for one in left_out if not one.expected][:NAMED]:
        logger.warning("Left out %s: %s", one.what, one.reason)
    counts = Counter((PATH.sub("...", one.reason), one.expected) for one in left_out)
    for (reason, expected), number in counts.items():
        logger.log(logging.INFO if expected else logging.WARNING, "%d left out: %s", number, reason)
    return [(one.what, one.reason) for one in left_out]


def check(rows: Rows, plan: Plan, pool: Sequence[int] = ()) -> None:
    """The final splits, and the images without a label, as they are handed out.

    Raises:
        DataError: a row is neither used nor left out, or both; a class has no training image; a group is torn; an
            image without a label stands in a split, or its group in one that is held back.
    """
    used = [row for members in [*plan.values(), pool] for row in members]
    if sorted([*used, *rows.gone]) != list(range(len(rows.places))):
        raise DataError(f"{rows.data!r}: {len(used)} used and {len(rows.gone)} left out of {len(rows.places)} rows.")
    _check_classes(rows, plan)
    _check_groups(rows, plan)
    _check_pool(rows, plan, pool)
    _tell_duplicates(rows, plan)


def _check_classes(rows: Rows, plan: Plan) -> None:
    names = rows.labels.names
    if rows.labels.single and len(names) < 2:
        raise DataError(f"{rows.data!r} has {len(names)} class {names}: there is nothing to classify.")
    for split, members in plan.items():
        if not members:
            raise DataError(f"{rows.data!r}: split {split!r} has no image.")
        counts = rows.labels.counts[members].sum(0).astype(int)
        empty = [name for name, count in zip(names, counts, strict=True) if not count]
        what = f"split {split!r} has no image of class {', '.join(empty)}"
        if empty and split == "train":
            raise DataError(f"{rows.data!r}: {what}. Move images there, or leave the class out of every split.")
        if empty:
            logger.warning("%s: %s: figures of this split tell nothing of it.", rows.data, what)
        logger.info("Split %s: %d images, %s", split, len(members), dict(zip(names, counts.tolist(), strict=True)))


def _check_groups(rows: Rows, plan: Plan) -> None:
    seen: dict[str | None, str] = {}
    for split, members in plan.items() if rows.groups is not None else ():
        for group in {(rows.groups or [])[row] for row in members}:
            if group in seen:
                raise DataError(
                    f"{rows.data!r}: group {group!r} is in the splits {seen[group]!r} and {split!r}: a network would "
                    "be tested on patients that it has seen. Move its images to one side."
                )
            seen[group] = split


def _check_pool(rows: Rows, plan: Plan, pool: Sequence[int]) -> None:
    images = {rows.looks[row].digest: split for split, members in plan.items() for row in members}
    held = [(split, row) for split in HELD_BACK for row in plan.get(split, ())]
    groups = {rows.groups[row]: split for split, row in held} if rows.groups else {}
    for row in pool:
        split = images.get(rows.looks[row].digest) or (groups.get(rows.groups[row]) if rows.groups else None)
        if split:
            raise DataError(
                f"{rows.data!r}: {rows.places[row]} is used without a label, and it or its group stands in split "
                f"{split!r}: take it out."
            )


def _tell_duplicates(rows: Rows, plan: Plan) -> None:
    """Warn of images that stand in two of the owner's splits, twice in one, or twice with different labels."""
    held = _held_back(rows, plan)
    for split, members in plan.items():
        if twice := [row for row in members if row in held]:
            logger.warning(
                "%d images of split %r also stand in a split that is held back, the first is %s: pass "
                "drop_duplicates=True to leave them out.",
                *(len(twice), split, rows.places[twice[0]]),
            )
    for split, members in plan.items():
        digests = [rows.looks[row].digest for row in members]
        if more := len(digests) - len(set(digests)):
            logger.warning("%d images of split %r stand there more than once and count as often.", more, split)
    first: dict[str, int] = {}
    used = [row for members in plan.values() for row in members]
    torn = [
        (first[digest], row)
        for row in used
        if first.setdefault(digest := rows.looks[row].digest, row) != row
        and not np.array_equal(rows.labels.counts[first[digest]], rows.labels.counts[row])
    ]
    if torn:
        one, other = (rows.places[row] for row in torn[0])
        logger.warning("%d images stand twice with different labels, the first are %s and %s.", len(torn), one, other)
