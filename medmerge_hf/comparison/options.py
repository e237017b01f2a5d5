"""The options that a comparison has beside those of a run. Importing this imports nothing heavy."""

import dataclasses
from typing import Any

from ..runs.options import SEED, Range, about


FRACTIONS = Range(0, 1, open_low=True)


@dataclasses.dataclass
class ComparisonOptions:
    """How a comparison runs; its section `compare` in the YAML says what: targets, merges, methods, best."""

    seeds: list[int] = dataclasses.field(
        default_factory=lambda: [0], metadata=about("One run of each method a seed.", SEED)
    )
    trials: int = dataclasses.field(
        default=1,
        metadata=about("Learning rates that every method may try; 1 takes those of the config.", Range(1)),
    )
    workers: int | None = dataclasses.field(
        default=None, metadata=about("Processes that Ray spreads the runs over; by default this one alone.", Range(1))
    )


@dataclasses.dataclass
class SettingOptions:
    """What a target or a list of sources says beside the options of its runs."""

    skip: list[str] | None = dataclasses.field(
        default=None, metadata=about("Targets that a list of sources is left out of.")
    )
    ordered: bool | list[str] | None = dataclasses.field(
        default=None, metadata=about("The classes are grades, or in this order they are.")
    )
    methods: list[str] | None = dataclasses.field(default=None, metadata=about("Those to run; all by default."))
    label_fractions: list[float] | None = dataclasses.field(
        default=None, metadata=about("Shares of the labels, a setting each.", FRACTIONS)
    )


@dataclasses.dataclass
class SectionOptions(SettingOptions):
    """The section `compare` of a config."""

    targets: dict[str, Any] | None = dataclasses.field(
        default=None, metadata=about("Name -> options of its runs, such as data.")
    )
    merges: dict[str, Any] | None = dataclasses.field(
        default=None, metadata=about("Name -> options of its runs, such as sources.")
    )
