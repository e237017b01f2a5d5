"""Is there anything to merge? `medmerge rank`: what each source promises on the target, and all of them together.

    medmerge rank CONFIG.yaml [--option value ...]

CONFIG.yaml is one of `train.py`. Every source sees the training images once; nothing is trained but logistic
regressions on what the sources make of them, and nothing is written.
"""

import dataclasses
import logging
import sys
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
from transformers.utils import logging as hf_logging

from ..evaluation.bootstrap import Interval
from ..evaluation.probe import Probe, gain, log_loss, macro_f1, probe
from ..evaluation.ranking import likeness
from ..evaluation.tables import markdown_table
from ..sources.reference import stated_name
from .build import load_data, make_single, training_features
from .config import read_options
from .settings import Settings, make_settings


@dataclasses.dataclass(frozen=True)
class Ranking:
    """What a linear probe of the training images says before any training.

    Attributes:
        names: of the sources, in the order of the options.
        probes: out-of-fold predictions from each source's features.
        together: from the features of all sources side by side.
        alike: `[S, S]`, linear CKA between the sources' features.
    """

    names: Sequence[str]
    probes: Sequence[Probe]
    together: Probe
    alike: np.ndarray

    @property
    def best(self) -> int:
        """The source whose probe has the lowest log-loss."""
        return int(np.argmin([one.losses.mean() for one in self.probes]))

    @property
    def loss_gain(self) -> Interval:
        """Log-loss of all sources together minus that of the best one; below 0 they know more together."""
        return gain(self.together, self.probes[self.best], log_loss)

    @property
    def f1_gain(self) -> Interval:
        """Macro F1 of all sources together minus that of the best one."""
        return gain(self.together, self.probes[self.best], macro_f1)

    @property
    def advice(self) -> str:
        """One sentence: merge, or fine-tune which source."""
        loss, f1, best = self.loss_gain, self.f1_gain, self.names[self.best]
        told = f"log-loss {loss}, macro F1 {f1} against {best} alone, on {len(self.together.labels)} training images"
        if loss.high < 0:
            return f"Merging can pay: together the sources tell more of the target than the best of them ({told})."
        if loss.low > 0:
            return f"Fine-tune {best} alone: beside it the other sources only add noise ({told})."
        return f"Fine-tune {best} first: what a linear probe gains from the other sources may be chance ({told})."

    def to_markdown(self) -> str:
        """A table of the sources, the best one first, and the advice."""
        order = np.argsort([one.losses.mean() for one in self.probes])
        rows = [self._row(self.names[i], self.probes[i], f"{self.alike[i, self.best]:.2f}") for i in order]
        rows.append(self._row("all together", self.together, "-"))
        header = ["source", "log-loss", "macro F1", "AUROC", f"CKA to {self.names[self.best]}"]
        return f"{markdown_table(header, rows)}\n\n{self.advice}"

    @staticmethod
    def _row(name: str, one: Probe, alike: str) -> list[str]:
        figures = one.figures
        return [name, f"{one.losses.mean():.3f}", f"{figures['macro_f1']:.3f}", f"{figures['auroc']:.3f}", alike]


def rank_sources(settings: Settings) -> Ranking:
    """Probe the sources of a run on the training images of its target.

    Args:
        settings: of the run.

    Returns:
        What they promise alone and together.

    Raises:
        DataError: a class has a single training image.
        SourceError: a source that cannot be read, or is of another architecture.
    """
    return rank_target(settings, load_data(settings))


def rank_target(settings: Settings, target: Any) -> Ranking:
    """As [`rank_sources`], on a target that is loaded.

    Args:
        settings: of the run.
        target: the data set.
    """
    seed = settings.run.seed
    found = [training_features(make_single(one, settings, target), target, seed) for one in settings.source.sources]
    names = [stated_name(source) for source in settings.source.sources]
    return ranking_of(names, [own for own, _ in found], found[0][1], seed)


def ranking_of(names: Sequence[str], features: list[np.ndarray], labels: np.ndarray, seed: int) -> Ranking:
    """What probes of features promise.

    Args:
        names: of the sources.
        features: of each, `[N, D]` of the same images.
        labels: `[N]` classes from 0, or `[N, K]` of several labels.
        seed: of the folds.
    """
    together = probe(np.concatenate(features, axis=1), labels, seed)
    return Ranking(names, [probe(own, labels, seed) for own in features], together, likeness(features))


def main(argv: Sequence[str] | None = None) -> None:
    """Rank the sources that the words of a command line name, and print what they promise.

    Args:
        argv: CONFIG.yaml and options; those of the process by default.

    Raises:
        SettingsError: a line for each option that is wrong; nothing was read then.
        MedMergeError: of the data or the sources.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    hf_logging.set_verbosity_error()
    datasets.disable_progress_bars()
    options = {"output_dir": "unused", **read_options(sys.argv[1:] if argv is None else argv)}
    print(rank_sources(make_settings(options)).to_markdown())
