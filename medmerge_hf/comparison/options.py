"""The options that a comparison has beside those of a run. Importing this imports nothing heavy."""

import dataclasses

from ..runs.options import SEED, Range, about


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
