"""Which of the sources to merge: those that promise most, the best as the anchor."""

import dataclasses
import logging
from typing import Any

from building import make_single, training_features
from settings import Settings

from medmerge_hf.ranking import probe_score
from medmerge_hf.report import short_name


logger = logging.getLogger("medmerge_hf.recipes")


def choose_sources(settings: Settings, target: Any) -> Settings:
    """The settings with the `keep_best` sources on which a linear probe of the training images does best.

    Args:
        settings: of the run; unchanged where `keep_best` is not set or all sources are kept in their order.
        target: the data set.

    Returns:
        Settings whose sources are ordered by the macro F1 of a cross-validated probe, the anchor first.
    """
    keep = settings.source.keep_best
    if keep is None:
        return settings
    seed, scores = settings.run.seed, []
    for source in settings.source.sources:
        model = make_single(source, settings, target)
        scores.append(probe_score(*training_features(model, target, seed), seed))
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    names = [short_name(s if isinstance(s, str) else s["id"]) for s in settings.source.sources]
    found = ", ".join(f"{names[place]} {scores[place]:.3f}" for place in order)
    logger.info("Linear probe of the sources, macro F1: %s. Merging the first %d.", found, keep)
    chosen = [settings.source.sources[place] for place in order[:keep]]
    kept = dataclasses.replace(settings.source, sources=chosen, keep_best=None)
    options = {key: value for key, value in settings.options.items() if key != "keep_best"}
    return dataclasses.replace(settings, source=kept, options={**options, "sources": chosen})
