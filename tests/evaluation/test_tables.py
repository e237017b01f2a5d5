from medmerge_hf.evaluation.tables import markdown_table, mean_and_spread


def test_what_would_break_a_table_does_not():
    lines = markdown_table(["a|b", "c"], [["one\ntwo", ""], ["x", "longer"]]).splitlines()
    assert len(lines) == 4
    assert lines[0].startswith(r"| a\|b ")
    assert lines[2].startswith("| one two |")
    assert len({len(line) for line in lines}) == 1


def test_one_value_has_no_spread():
    assert mean_and_spread([0.5]) == "0.500"
    assert mean_and_spread([0.1, 0.2, 0.3]) == "0.200 ± 0.100"
