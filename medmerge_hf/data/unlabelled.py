"""The pool: images that are used without a label, and never one that validation or test is measured by."""

import logging
from collections.abc import Collection, Sequence

from ..errors import DataError
from .gate import HELD_BACK, STRICTEST_FIRST, Plan, Rows
from .splits import UNLABELLED


logger = logging.getLogger(__name__)


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
            "without a label, or leave unlabelled out."
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
