"""The licence of a merge: the most restrictive of its sources'."""

from collections.abc import Mapping


# From the freest to the most restrictive, as the Hub calls them. A group asks for the same.
GROUPS: dict[str, tuple[str, ...]] = {
    "public domain": ("cc0-1.0", "unlicense", "wtfpl", "pddl"),
    "permissive": (
        *("mit", "isc", "zlib", "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "ncsa"),
        *("apache-2.0", "afl-3.0", "artistic-2.0", "ecl-2.0", "ms-pl", "postgresql", "cdla-permissive-2.0"),
        *("cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "odc-by"),
    ),
    "restricted use": ("openrail", "openrail++", "creativeml-openrail-m", "bigscience-openrail-m"),
    "weak copyleft": (
        *("mpl-2.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr", "epl-1.0", "epl-2.0", "osl-3.0", "eupl-1.1"),
        *("eupl-1.2", "cdla-sharing-1.0"),
    ),
    "copyleft": (*("cc-by-sa-3.0", "cc-by-sa-4.0", "odbl", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "agpl-3.0"),),
    "non-commercial": ("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "fair-noncommercial-research-license"),
    "non-commercial copyleft": ("cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0"),
    "no derivatives": ("cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0"),
}

ORDER = [name for group in GROUPS.values() for name in group]

SHARE_ALIKE = {*GROUPS["copyleft"], *GROUPS["non-commercial copyleft"]}


def merged_license(stated: Mapping[str, str | None]) -> tuple[str, list[str]]:
    """The licence that covers a merge, and what stands in its way. No legal advice.

    Args:
        stated: source -> its licence as the Hub calls it, `None` where it states none.

    Returns:
        The most restrictive licence (`unknown` where a source states none, `other` where one is not a known licence),
        and warnings, a sentence each.

    Example:
        >>> merged_license({"a": "mit", "b": "cc-by-nc-4.0"})
        ('cc-by-nc-4.0', [])
        >>> merged_license({"a": "mit", "b": None})[0]
        'unknown'
    """
    unstated = [source for source, name in stated.items() if name in (None, "unknown")]
    own = {source: name for source, name in stated.items() if source not in unstated and name not in ORDER}
    final = {source: name for source, name in stated.items() if name in GROUPS["no derivatives"]}
    known = {name for name in stated.values() if name in ORDER}
    strictest = max(known, key=ORDER.index, default="unknown")
    warnings = [
        f"{source} states no licence: ask its authors before you share or use this model." for source in unstated
    ]
    warnings += [f"{source} has a licence of its own ({name}): read its terms." for source, name in own.items()]
    warnings += [f"{source} allows no derivatives ({name}), and a merge is one." for source, name in final.items()]
    alike = known & SHARE_ALIKE
    if alike - {strictest}:
        names = ", ".join(sorted(alike | {strictest}))
        warnings.append(f"These licences conflict, since each must cover the whole merge: {names}.")
    return ("unknown" if unstated else "other" if own else strictest), warnings
