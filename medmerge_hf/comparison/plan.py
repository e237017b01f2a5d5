"""What a comparison trains: settings, seeds, methods."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import SettingsError
from ..runs.options import STAGES
from . import methods as methods  # all of them are registered
from .registry import METHODS, of_all, of_each
from .run_store import RunStore


SECTION = "compare"

NOT_OPTIONS = ("skip", "ordered", "methods", "label_fractions")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One target with one list of sources, and the options of both.

    Attributes:
        target: its name.
        merge: name of the list of sources.
        options: of `train.py`.
        ordered: names of the classes as grades, or whether they are grades as they stand.
        methods: of all sources.
        ways: of one source, each of them with every source.
        fraction: share of the labels, where there are several.
    """

    target: str
    merge: str
    options: dict[str, Any]
    ordered: tuple[str, ...] | bool = False
    methods: tuple[str, ...] = ()
    ways: tuple[str, ...] = ()
    fraction: float | None = None

    @property
    def task(self) -> str:
        """Target and sources."""
        return " <- ".join(part for part in (self.target, self.merge) if part)

    @property
    def name(self) -> str:
        """What tables call it."""
        share = "" if self.fraction is None else f"{self.fraction:.0%} of the labels"
        return ", ".join(part for part in (self.task, share) if part)

    def sources(self) -> list[Any]:
        """As the options name them."""
        return list(self.options["sources"])


def overlay(options: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Options with others on top; what is below a stage is put on top there."""
    stages = {stage: {**(options.get(stage) or {}), **(patch.get(stage) or {})} for stage in STAGES}
    return {**options, **patch, **stages}


def settings_of(options: Mapping[str, Any]) -> list[Setting]:
    """Every target with every merge of a config; one of each where it has no section `compare`."""
    section = options.get(SECTION) or {}
    shared = {key: value for key, value in options.items() if key not in (SECTION, "output_dir")}
    found = []
    for target, data in (section.get("targets") or {"": {}}).items():
        for merge, sources in (section.get("merges") or {"": {}}).items():
            if target in sources.get("skip", ()):
                continue
            own = {key: value for key, value in {**data, **sources}.items() if key not in NOT_OPTIONS}
            methods, ways = chosen_methods(sources.get("methods") or section.get("methods") or ())
            grades = data.get("ordered", section.get("ordered", False))
            ordered = tuple(grades) if isinstance(grades, list) else bool(grades)
            for fraction in data.get("label_fractions") or section.get("label_fractions") or [None]:
                share = {} if fraction is None else {"label_fraction": fraction}
                whole = overlay(shared, {**own, **share})
                found.append(Setting(target, merge, whole, ordered, methods, ways, fraction))
    return found


def chosen_methods(names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Methods of all sources, and of one, among those that a config names; all of a kind of which it names none.

    Raises:
        SettingsError: a name is no method's.
    """
    if unknown := set(names) - set(METHODS):
        raise SettingsError(f"Unknown methods {sorted(unknown)}; there are {', '.join(METHODS)}.")
    kinds = [[one.name for one in of_all()], [one.name for one in of_each()]]
    methods, ways = (tuple(name for name in kind if name in names) or tuple(kind) for kind in kinds)
    return methods, ways


@dataclasses.dataclass
class Plan:
    """A comparison's settings, seeds and folder.

    Attributes:
        options: of the config and command line.
        seeds: one run each.
        runs: where they are kept.
        trials: learning rates that every method may try, the best on validation counts; 1 takes those of the config.
    """

    options: dict[str, Any]
    seeds: Sequence[int]
    runs: RunStore
    trials: int = 1

    @property
    def settings(self) -> list[Setting]:
        """Targets x merges."""
        return settings_of(self.options)

    def key(self, setting: Setting, method: str, seed: int, source: Any = None) -> dict[str, Any]:
        """The settings that make a run what it is."""
        options = dict(setting.options)
        if source is not None:
            options["sources"] = [source]
        if section := METHODS[method].options:
            options = overlay(options, (self.options.get(SECTION) or {}).get(section) or {})
        return {"method": method, "seed": seed, "options": options, "trials": self.trials}

    def groups(self) -> Iterator[tuple[int, str]]:
        """(seed, target): what one worker does in one go."""
        for seed in self.seeds:
            for target in dict.fromkeys(setting.target for setting in self.settings):
                yield seed, target
