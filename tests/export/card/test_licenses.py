import re

import pytest

from medmerge_hf.export.card.licenses import GROUPS, ORDER, merged_license


@pytest.mark.parametrize(
    ("stated", "license_", "warning"),
    [
        (["mit", "apache-2.0"], "apache-2.0", None),
        (["apache-2.0", "cc-by-nc-4.0", "mit"], "cc-by-nc-4.0", None),
        (["mit", None], "unknown", "b states no licence"),
        (["unknown", "mit"], "unknown", "a states no licence"),
        (["mit", "my-own"], "other", "b has a licence of its own"),
        (["mit", "cc-by-nd-4.0"], "cc-by-nd-4.0", "b allows no derivatives"),
        (["gpl-3.0", "cc-by-nc-4.0"], "cc-by-nc-4.0", "conflict.*cc-by-nc-4.0, gpl-3.0"),
        (["cc-by-sa-4.0", "gpl-3.0"], "gpl-3.0", "conflict"),
        (["gpl-3.0", "gpl-3.0"], "gpl-3.0", None),
    ],
)
def test_the_most_restrictive_licence_holds_and_conflicts_are_named(stated, license_, warning):
    found, warnings = merged_license(dict(zip("abc", stated, strict=False)))
    assert found == license_
    assert len(warnings) == (warning is not None)
    assert re.search(warning or "^$", " ".join(warnings))


def test_every_licence_stands_in_one_group():
    assert len(ORDER) == len(set(ORDER)) == sum(map(len, GROUPS.values()))
