import itertools

import numpy as np

from medmerge_hf.comparison.report.rows import BEST_MERGE, BEST_SOURCE, PROBED_SOURCE, collect, promises


def test_the_best_source_and_the_best_form_are_chosen_on_validation(finished_plan):
    rows, methods = collect(finished_plan), finished_plan.settings[0].methods
    singles = [row for row in rows if row.method.startswith(("0, ", "1, "))]
    best = next(row for row in rows if row.method == BEST_SOURCE)
    assert len(singles) == 2 * 4
    assert best.validation["macro_f1"] == max(row.validation["macro_f1"] for row in singles)
    chosen = next(row for row in rows if row.method == BEST_MERGE)
    forms = [row for row in rows if row.method in methods and row.method.startswith("MedMerge")]
    assert chosen.validation["macro_f1"] == max(row.validation["macro_f1"] for row in forms)
    assert chosen.notes["chosen"] in {row.method for row in forms}


def test_the_source_that_a_probe_chooses_is_fine_tuned(finished_plan):
    promised = {promise.source: promise.probe for promise in promises(finished_plan)}
    probed = next(row for row in collect(finished_plan) if row.method == PROBED_SOURCE)
    assert probed.notes["chosen"] == f"{max(promised, key=lambda name: promised[name])}, fine-tuned"


def test_an_ensemble_is_the_mean_of_the_fine_tuned_sources(finished_plan):
    rows = collect(finished_plan)
    ensemble = next(row for row in rows if row.method == "ensemble")
    tuned = [row.probabilities for row in rows if row.method in ("0, fine-tuned", "1, fine-tuned")]
    assert np.allclose(ensemble.probabilities, np.mean(tuned, axis=0))


def test_controls_predict_something_else_than_the_merge(finished_plan):
    rows = {row.method: row.probabilities for row in collect(finished_plan)}
    merges = [rows[name] for name in ("MedMerge (best)", "best without kernel weights", "best with noise for sources")]
    assert not any(np.array_equal(one, other) for one, other in itertools.combinations(merges, 2))
