"""What a comparison has to run: targets x merges x methods x seeds, in an order in which nothing waits for itself."""

import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate.state import PartialState
from accelerate.utils import broadcast_object_list

from ..runs.build import load_data
from ..runs.options import STAGES
from ..runs.settings import Settings, make_settings
from .job import Job, validation_f1
from .methods import AFTER_FINE_TUNING, AFTER_LP_FT, ALL, EACH, RANKING
from .plan import Plan, Setting, overlay, source_name
from .run_store import Outcome
from .single_source import promise


logger = logging.getLogger(__name__)

RATES = {"merge": (3e-4, 3e-3), "finetune": (3e-5, 1e-3)}  # that trials draw learning rates from


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
        settings = make_settings({**options, "seed": seed, "output_dir": folder}, fewest_sources=1)
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
