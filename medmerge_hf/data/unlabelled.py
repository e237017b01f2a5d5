"""The pool: images that are used without a label, and never one that validation or test is measured by."""

import dataclasses
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..errors import DataError
from .gate import HELD_BACK, STRICTEST_FIRST, Plan, Rows
from .images import range_of
from .labels import missing_labels
from .listing import Listing, with_unlabelled
from .splits import UNLABELLED


logger = logging.getLogger(__name__)


def with_images_of(listing: Listing, more: Listing, data: str) -> Listing:
    """A listing, and the images of other data, whatever is said of their splits.

    Args:
        listing: of the target.
        more: images alone.
        data: where they lie, as the user wrote it.
    """
    places = [f"{data}: {place}" for place in more.places]
    left_out = [one._replace(what=f"{data}: {one.what}") for one in more.left_out]
    groups = more.groups
    if listing.groups is not None and groups is None:
        logger.warning("%s names no groups: whether any stands in validation or test cannot be told.", data)
        groups = list(places)  # each its own
    more = dataclasses.replace(more, places=places, left_out=left_out, groups=groups)
    return with_unlabelled(listing, more, [UNLABELLED] * len(places))


def without_label(listing: Listing, plan: Plan, multi_label: bool) -> set[int]:
    """Rows that have no label, or whose split says so.

    Args:
        listing: of the target.
        plan: as the owner states it.
        multi_label: whether a row may have several labels.
    """
    empty, named = missing_labels(listing, multi_label), {*plan.get(UNLABELLED, ())}
    if there := named - empty:
        logger.info("%d labels of images of an unlabelled split are not read.", len(there))
    return empty | named


def tell_range(rows: Rows, bare: Collection[int], rule: Mapping[str, Any]) -> None:
    """Warn where images without a label change which values are black and white in those that have one."""
    deep = [row for row, look in enumerate(rows.looks) if look.depth and row not in bare]
    if bare and deep and (own := range_of(deep, rows.looks, rows.places)) != (rule["black"], rule["white"]):
        logger.warning(
            "With the images without a label, %g is black and %g is white, which are %g and %g without them: are all "
            "in one unit?",
            *(rule["black"], rule["white"], *own),
        )


def divide(rows: Rows, plan: Plan, bare: Collection[int]) -> tuple[Plan, list[int]]:
    """The plan without rows that have no label, and those that may be used without one.

    Args:
        rows: all of them.
        plan: as the owner states it.
        bare: rows without a label. In the owner's test split they are left out: they are there to be tested by.

    Raises:
        DataError: no training image has a label.
    """
    untested = {row: "of split 'test', without a label" for row in plan.get("test", ()) if row in bare}
    pool = sorted(set(bare) - untested.keys())
    plan = {split: members for split, members in plan.items() if split != UNLABELLED}
    plan = rows.leave_out(plan, untested, expected=True)
    left = {split: [row for row in members if row not in bare] for split, members in plan.items()}
    if not left["train"]:
        raise DataError(f"{rows.data!r}: no training image has a label, there is nothing to classify by.")
    return {split: members for split, members in left.items() if members}, pool


def leave_known(rows: Rows, plan: Plan, pool: Sequence[int], tested: Collection[int]) -> list[int]:
    """The pool without images, and groups, that the splits hold, each image once.

    Args:
        rows: all of them; receives why some are left out.
        plan: the final splits.
        pool: rows that may be used without a label.
        tested: what else stands in the owner's test split.

    Raises:
        DataError: nothing is left.
    """
    known = {
        rows.looks[row].digest: f"stands in split {split!r} too"
        for split in reversed(STRICTEST_FIRST)
        for row in [*plan.get(split, ()), *(tested if split == "test" else ())]
    }
    torn = _groups_held_back(rows, plan, tested)
    gone: dict[int, str] = {}
    for row in sorted(pool):
        digest, group = rows.looks[row].digest, rows.groups[row] if rows.groups else ""
        reason = known.get(digest) or torn.get(group)
        if reason:
            gone[row] = reason
        known.setdefault(digest, "stands among the unlabelled images already")
    rows.leave_out({}, gone, expected=True)
    left = [row for row in sorted(pool) if row not in gone]
    if not left:
        first = f", the first is {rows.places[min(gone)]}: {gone[min(gone)]}" if gone else ""
        raise DataError(
            f"{rows.data!r}: no image is left to be used without a label ({len(pool)} were there{first}). Add images "
            "that are not to be tested by, or leave unlabelled out."
        )
    logger.info("Unlabelled: %d images", len(left))
    return left


def _groups_held_back(rows: Rows, plan: Plan, tested: Collection[int]) -> dict[str | None, str]:
    """Group -> why none of its images may be used; `None` is a row whose group is not known."""
    if rows.groups is None:
        return {}
    found: dict[str | None, str] = {None: "no group is known that could be kept out of validation and test"}
    for split in HELD_BACK:
        for row in [*plan.get(split, ()), *(tested if split == "test" else ())]:
            if rows.groups[row] is not None:
                found[rows.groups[row]] = f"its group stands in split {split!r}"
    return found
