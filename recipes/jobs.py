"""What a comparison has to run: targets x merges x methods x seeds, in an order in which nothing waits for itself."""

import contextlib
import dataclasses
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.state import PartialState
from accelerate.utils import broadcast_object_list
from building import load_data
from methods import AFTER_FINE_TUNING, AFTER_LP_FT, ALL, AS_BEST, EACH, RANKING, Job, promise, validation_f1
from runs import Outcome, Runs
from settings import STAGES, Settings, make_settings

from medmerge_hf.errors import SettingsError
from medmerge_hf.report import short_name


logger = logging.getLogger(__name__)

SECTION = "compare"
NOT_OPTIONS = ("skip", "ordered", "methods", "label_fractions")
RATES = {"merge": (3e-4, 3e-3), "finetune": (3e-5, 1e-3)}  # that trials draw learning rates from


@dataclasses.dataclass(frozen=True)
class Setting:
    """One target with one list of sources, and the options of both.

    Attributes:
        target: its name.
        merge: name of the list of sources.
        options: of `train.py`.
        ordered: names of the classes as grades, or whether they are grades as they stand.
        methods: of all sources.
        fraction: share of the labels, where there are several.
    """

    target: str
    merge: str
    options: dict[str, Any]
    ordered: tuple[str, ...] | bool = False
    methods: tuple[str, ...] = ()
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
            methods = tuple(sources.get("methods") or section.get("methods") or ALL)
            grades = data.get("ordered", section.get("ordered", False))
            ordered = tuple(grades) if isinstance(grades, list) else bool(grades)
            if unknown := set(methods) - set(ALL):
                raise SettingsError(f"Unknown methods {sorted(unknown)}; there are {', '.join(ALL)}.")
            for fraction in data.get("label_fractions") or section.get("label_fractions") or [None]:
                share = {} if fraction is None else {"label_fraction": fraction}
                found.append(Setting(target, merge, overlay(shared, {**own, **share}), ordered, methods, fraction))
    return found


def source_name(source: Any) -> str:
    """What tables call a source."""
    return short_name(source if isinstance(source, str) else source["id"])


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
    runs: Runs
    trials: int = 1

    @property
    def settings(self) -> list[Setting]:
        """Targets x merges."""
        return settings_of(self.options)

    def key(self, setting: Setting, method: str, seed: int, source: Any = None) -> dict[str, Any]:
        """The settings that make a run what it is."""
        options = {k: v for k, v in setting.options.items() if k != "disable_tqdm"}
        if source is not None:
            options["sources"] = [source]
        if method in AS_BEST:
            options = overlay(options, (self.options.get(SECTION) or {}).get("best") or {})
        return {"method": method, "seed": seed, "options": options, "trials": self.trials}

    def groups(self) -> Iterator[tuple[int, str]]:
        """(seed, target): what one worker does in one go."""
        for seed in self.seeds:
            for target in dict.fromkeys(setting.target for setting in self.settings):
                yield seed, target


def agreed(value: Any) -> Any:
    """What the main process of a distributed run says."""
    return broadcast_object_list([value])[0] if PartialState().num_processes > 1 else value


def run_group(plan: Plan, seed: int, target: str) -> None:
    """Everything of one target and seed that is not done yet."""
    loaded: dict[str, Any] = {}
    for setting in (s for s in plan.settings if s.target == target):
        for source in setting.sources():
            for method in (RANKING, *EACH):
                _once(plan, setting, method, seed, loaded, source)
        for method in setting.methods:
            _once(plan, setting, method, seed, loaded)


def _once(plan: Plan, setting: Setting, method: str, seed: int, loaded: dict[str, Any], source: Any = None) -> None:
    key = plan.key(setting, method, seed, source)
    if agreed(plan.runs.has(key)):
        return
    start = time.perf_counter()
    outcome = _tuned(plan, setting, method, key, loaded, source)
    seconds = time.perf_counter() - start
    with PartialState().main_process_first():
        if not plan.runs.has(key):
            plan.runs.save(key, outcome, seconds)
    what = method if source is None else f"{source_name(source)}, {method}"
    found = outcome.notes if method == RANKING else f"{validation_f1(outcome):.3f}"
    logger.warning("%s: %s, seed %d: %s, %.0f s", setting.name, what, seed, found, seconds)


def _tuned(
    plan: Plan, setting: Setting, method: str, key: Mapping[str, Any], loaded: dict[str, Any], source: Any
) -> Outcome:
    """The best on validation of as many learning rates as every method may try."""
    untuned = (*AFTER_FINE_TUNING, "WiSE-FT", RANKING)  # they take trained networks as they are, or train none
    if plan.trials == 1 or method in untuned:
        return _run(plan, setting, method, key["options"], key["seed"], loaded, source)
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    outcomes = {}

    def objective(trial: Any) -> float:
        rates = {s: {"learning_rate": trial.suggest_float(s, *RATES[s], log=True)} for s in STAGES}
        options = overlay(key["options"], rates)
        outcomes[trial.number] = _run(plan, setting, method, options, key["seed"], loaded, source)
        outcomes[trial.number].notes["rates"] = trial.params
        return validation_f1(outcomes[trial.number])

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.QMCSampler(seed=key["seed"]))
    study.optimize(objective, n_trials=plan.trials)
    return outcomes[study.best_trial.number]


def _run(
    plan: Plan,
    setting: Setting,
    method: str,
    options: Mapping[str, Any],
    seed: int,
    loaded: dict[str, Any],
    source: Any,
) -> Outcome:
    with tempfile.TemporaryDirectory() as own:
        folder = agreed(own)  # all processes of a distributed run share their checkpoints
        settings = make_settings({**options, "seed": seed, "output_dir": folder, "disable_tqdm": None})
        job = Job(settings, _target(loaded, settings, setting.target))
        if method in AFTER_FINE_TUNING:
            keys = [plan.key(setting, "fine-tuned", seed, source) for source in setting.sources()]
            job.tuned = [plan.runs.load(key, states=True) for key in keys]
        if method in AFTER_LP_FT:
            job.stages = plan.runs.load(plan.key(setting, "LP-FT", seed, source), states=True)
        with contextlib.redirect_stdout(None):
            outcome = {**EACH, **ALL, RANKING: promise}[method](job)
        PartialState().wait_for_everyone()  # before the folder goes
        return outcome


def _target(loaded: dict[str, Any], settings: Settings, target: str) -> Any:
    """A target, read once for all methods."""
    name = f"{target} {settings.data.label_fraction}"
    if name not in loaded:
        loaded[name] = load_data(settings)
    return loaded[name]


def run_everything(plan: Plan, workers: int | None = None) -> None:
    """Run what is missing: one after the other, or spread by Ray.

    Args:
        plan: of the comparison.
        workers: processes of one CPU core (and, on machines that have them, an equal share of the GPUs); `None` stays
            in this process.
    """
    if workers is None:
        for seed, target in plan.groups():
            run_group(plan, seed, target)
        return
    import ray

    # Workers find the recipes where this process does (on a cluster: on a file system that the machines share).
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    ray.init(ignore_reinit_error=True, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": paths}})
    gpus = ray.cluster_resources().get("GPU", 0) / workers
    remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=2)(run_group)
    waiting = [remote.remote(plan, seed, target) for seed, target in plan.groups()]
    while waiting:
        done, waiting = ray.wait(waiting)
        ray.get(done)
