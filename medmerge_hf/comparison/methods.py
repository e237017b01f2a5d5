"""The methods of a comparison, each from sources to predictions with the same data, transforms and steps.

A budget is the epochs (or `max_steps`) of both stages together. What has one stage gets them all in it.
"""

from collections.abc import Callable

from .averaging import aligned_average, ensemble, greedy, uniform_average
from .job import Job
from .merging import longer, medmerge, medmerge_tuned, of_noise, unmerged
from .run_store import Outcome
from .single_source import fine_tuned, lp_ft, reestimated, wise_ft


EACH: dict[str, Callable[[Job], Outcome]] = {
    "fine-tuned": fine_tuned,
    "LP-FT": lp_ft,
    "LP-FT re-estimated": reestimated,
    "WiSE-FT": wise_ft,
}

RANKING = "ranking"

USUAL = ("fine-tuned", "LP-FT")

OURS = "MedMerge"

BEST_FORM = f"{OURS} (best)"

CONTROL, NOISE = "best without kernel weights", "best with noise for sources"

ALL: dict[str, Callable[[Job], Outcome]] = {
    "uniform average": uniform_average,
    "aligned average": aligned_average,
    "greedy soup": greedy,
    "ensemble": ensemble,
    "fine-tuned longer": longer,
    "MedMerge (paper)": medmerge,
    BEST_FORM: medmerge,
    "MedMerge of fine-tuned": medmerge_tuned,
    CONTROL: unmerged,
    NOISE: of_noise,
}

AS_BEST = (BEST_FORM, CONTROL, NOISE)  # take the options of the config's `best`

AFTER_LP_FT = ("LP-FT re-estimated", "WiSE-FT")

AFTER_FINE_TUNING = ("greedy soup", "ensemble", "fine-tuned longer", "MedMerge of fine-tuned")
