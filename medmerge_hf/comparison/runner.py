"""What a comparison has to run: targets x merges x methods x seeds; what a method needs runs before it."""

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
from ..sources.reference import stated_name
from .job import Job, validation_f1
from .plan import Plan, Setting, overlay
from .progress import Progress, progress_of
from .registry import METHODS, Method
from .run_store import Outcome


logger = logging.getLogger(__name__)

LOOK = 5  # seconds between two looks at what the workers have done

RATES = {"merge": (3e-4, 3e-3), "finetune": (3e-5, 1e-3)}  # that trials draw learning rates from


def agreed(value: Any) -> Any:
    """What the main process of a distributed run says."""
    return broadcast_object_list([value])[0] if PartialState().num_processes > 1 else value


class Group:
    """Everything of one target and seed: what one worker does in one go.

    Args:
        plan: of the comparison.
        seed: of the runs.
        target: name of the data set.
        progress: of all runs, where it is told in this process.
    """

    def __init__(self, plan: Plan, seed: int, target: str, progress: Progress | None = None) -> None:
        self.plan, self.seed, self.target, self.progress = plan, seed, target, progress
        self.data: dict[float, Any] = {}

    def run(self) -> None:
        """Run what is not done yet."""
        for setting in (s for s in self.plan.settings if s.target == self.target):
            for source in setting.sources():
                for name in setting.ways:
                    self.run_once(setting, METHODS[name], source)
            for name in setting.methods:
                self.run_once(setting, METHODS[name])

    def run_once(self, setting: Setting, method: Method, source: Any = None) -> None:
        """One method, after what it needs, unless it is done.

        Args:
            setting: target and sources.
            method: what is run.
            source: the one that it takes; `None` where it takes all.
        """
        key = self.plan.key(setting, method.name, self.seed, source)
        if agreed(self.plan.runs.has(key)):
            return
        for need in method.needs:
            for each in self._taken(setting, need, source):
                self.run_once(setting, METHODS[need], each)
        what = method.name if source is None else f"{stated_name(source)}, {method.name}"
        if self.progress is not None:
            self.progress.begin(f"{setting.name}: {what}, seed {self.seed}")
        start = time.perf_counter()
        outcome = self._best_of_trials(setting, method, key, source)
        seconds = time.perf_counter() - start
        with PartialState().main_process_first():
            if not self.plan.runs.has(key):
                self.plan.runs.save(key, outcome, seconds)
        found = f"{validation_f1(outcome):.3f}" if method.predicts else outcome.notes
        logger.warning("%s: %s, seed %d: %s, %.0f s", setting.name, what, self.seed, found, seconds)
        if self.progress is not None:
            self.progress.end()

    def _taken(self, setting: Setting, need: str, source: Any) -> list[Any]:
        """The sources of which a method needs another one's outcome; `None` for that of all of them."""
        if not METHODS[need].each:
            return [None]
        return setting.sources() if source is None else [source]

    def _best_of_trials(self, setting: Setting, method: Method, key: Mapping[str, Any], source: Any) -> Outcome:
        """The best on validation of as many learning rates as every method may try."""
        if self.plan.trials == 1 or not method.tries_rates:
            return self._outcome(setting, method, key["options"], source)
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        outcomes = {}

        def objective(trial: Any) -> float:
            rates = {s: {"learning_rate": trial.suggest_float(s, *RATES[s], log=True)} for s in STAGES}
            outcome = self._outcome(setting, method, overlay(key["options"], rates), source)
            outcome.notes["rates"] = trial.params
            outcomes[trial.number] = outcome
            return validation_f1(outcome)

        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.QMCSampler(seed=self.seed))
        study.optimize(objective, n_trials=self.plan.trials)
        return outcomes[study.best_trial.number]

    def _outcome(self, setting: Setting, method: Method, options: Mapping[str, Any], source: Any) -> Outcome:
        with tempfile.TemporaryDirectory() as own:
            folder = agreed(own)  # all processes of a distributed run share their checkpoints
            settings = make_settings({**options, "seed": self.seed, "output_dir": folder}, fewest_sources=1)
            job = Job(
                settings, self._load(settings), {need: self._kept(setting, need, source) for need in method.needs}
            )
            with contextlib.redirect_stdout(None):
                outcome = method.run(job)
            PartialState().wait_for_everyone()  # before the folder goes
            return outcome

    def _kept(self, setting: Setting, name: str, source: Any) -> list[Outcome]:
        keys = [self.plan.key(setting, name, self.seed, each) for each in self._taken(setting, name, source)]
        return [self.plan.runs.load(key, states=True) for key in keys]

    def _load(self, settings: Settings) -> Any:
        """The target, read once for all methods."""
        fraction = settings.data.label_fraction
        if fraction not in self.data:
            self.data[fraction] = load_data(settings)
        return self.data[fraction]


def run_group(plan: Plan, seed: int, target: str, progress: Progress | None = None) -> None:
    """Everything of one target and seed that is not done yet."""
    Group(plan, seed, target, progress).run()


def run_everything(plan: Plan, workers: int | None = None) -> None:
    """Run what is missing: one after the other, or spread by Ray.

    Args:
        plan: of the comparison.
        workers: processes of one CPU core (and, on machines that have them, an equal share of the GPUs); `None` stays
            in this process.
    """
    with progress_of(plan, workers) as progress:
        if workers is None:
            for seed, target in plan.groups():
                run_group(plan, seed, target, progress)
        else:
            spread(plan, workers, progress)


def spread(plan: Plan, workers: int, progress: Progress | None) -> None:
    """Run what is missing by Ray.

    Args:
        plan: of the comparison.
        workers: processes.
        progress: of all runs.
    """
    import ray

    # Workers find this package where this process does (on a cluster: on a file system that the machines share).
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    ray.init(ignore_reinit_error=True, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": paths}})
    gpus = ray.cluster_resources().get("GPU", 0) / workers
    remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=2)(run_group)
    waiting = [remote.remote(plan, seed, target) for seed, target in plan.groups()]
    while waiting:
        done, waiting = ray.wait(waiting, timeout=LOOK)
        ray.get(done)
        if progress is not None:
            progress.look(min(workers, len(waiting)))
