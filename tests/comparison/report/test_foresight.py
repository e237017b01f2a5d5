import math

from medmerge_hf.comparison.report.foresight import Foresight, foresight_table, foresights


def test_a_promise_stands_beside_what_the_other_sources_gained(row):
    rows, foreseen = [], []
    for seed, gain in enumerate((0.0, 0.1, 0.2)):
        foreseen.append(Foresight("x", seed, -gain, gain))
        pairs = [("ensemble", gain), ("ensemble of seeds", 0.0)]
        rows += [row("x", method, seed, 0.5 + more) for method, more in pairs]
        for found in rows[-2:]:
            found.scores["auroc"] = 0.7
    header, lines = foresight_table(rows, foreseen)
    assert header[3] == "ensemble - ensemble of seeds: macro F1"
    assert lines[0] == ["x", "-0.100 ± 0.100", "0.100 ± 0.100", "0.100 ± 0.100", "0.000 ± 0.000", "-", "-"]
    assert lines[1] == ["all", "Spearman's correlation", "", "+1.00", "-", "-", "-"]


def test_a_comparison_asks_the_probes_of_all_its_sources(finished_plan, finished):
    (found,) = foresights(finished_plan)
    assert found.setting == finished_plan.settings[0].name
    assert math.isfinite(found.log_loss)
    assert abs(found.macro_f1) <= 1
    assert "Did probes foresee what the other sources gain?" in finished[1]


def test_nothing_is_foreseen_where_nobody_asked(finished_plan):
    setting = finished_plan.settings[0]
    finished_plan.options["compare"]["methods"] = [name for name in setting.methods if name != "ranking of all"]
    assert foresights(finished_plan) == []
