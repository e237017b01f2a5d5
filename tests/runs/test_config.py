import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from medmerge_hf.errors import SettingsError
from medmerge_hf.runs.checks import Problems
from medmerge_hf.runs.config import expand, pop_list, read_options


def written(tmp_path, text):
    file = tmp_path / "config.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(file)


def test_the_command_line_wins_over_the_file(tmp_path):
    file = written(tmp_path, "seed: 1\nsources: [c]\nmerge: {learning_rate: 1, weight_decay: 0}\n")
    found = read_options([file, "--seed", "7", "--merge.learning_rate=0.5", "--sources", "a", "b", "--multi_label"])
    assert found == {
        "seed": "7",
        "sources": ["a", "b"],
        "multi_label": "true",
        "merge": {"learning_rate": "0.5", "weight_decay": 0},
        "finetune": {},
    }


def test_negative_numbers_and_empty_values_are_values():
    assert read_options(["--color_jitter", "-1", "--data="])["color_jitter"] == "-1"
    assert read_options(["--data="])["data"] == ""


@pytest.mark.parametrize("words", [["-x"], ["--seed", "1", "--"], ["-seed", "3"], ["--=3"]])
def test_words_that_are_no_option_are_named(words):
    with pytest.raises(SettingsError, match="Expected an option such as --seed, found '-"):
        read_options(words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: [1", "is no YAML: .*line 1"),
        ("seed: 1\ndata: x\nseed: 2", "'seed' stands there twice.*line 3"),
        ("merge: {bf16: true, bf16: false}", "'bf16' stands there twice"),
        ("!!python/object/apply:os.getcwd []", "is no YAML: could not determine a constructor"),
        ("- seed", "is not a mapping"),
        ("", "is not a mapping"),
        ("seed: caf\xe9".encode("latin1"), "cannot be read.*utf-8"),
        ("seed: \x07", "is no YAML: unacceptable character"),
        ("seed: 2024-99-99", "cannot be read.*month"),
    ],
)
def test_files_that_are_no_yaml_are_named(text, message, tmp_path):
    with pytest.raises(SettingsError, match=message) as caught:
        read_options([written(tmp_path, text)])
    assert "config.yaml" in str(caught.value)


def test_files_that_are_not_there_are_named(tmp_path):
    for name in ("nowhere.yaml", str(tmp_path), "a\0b"):
        with pytest.raises(SettingsError, match="cannot be read"):
            read_options([name])


def test_yaml_may_take_over_a_mapping_and_change_it(tmp_path):
    file = written(tmp_path, "merge: &m {seed: 1, bf16: true}\nfinetune: {<<: *m, seed: 2}\n")
    assert read_options([file])["finetune"] == {"seed": 2, "bf16": True}


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_yaml_gives_options_or_a_settings_error(tmp_path_factory, value):
    try:
        found = read_options([written(tmp_path_factory.mktemp("any"), yaml.safe_dump(value))])
    except SettingsError:
        assert not isinstance(value, dict)
    else:
        assert {*found} == {*value, "merge", "finetune"}


def test_environment_variables_are_put_in_at_any_depth(monkeypatch):
    monkeypatch.setenv("PLACE", "/data")
    monkeypatch.delenv("NOWHERE", raising=False)
    problems = Problems()
    given = {"data": "${PLACE}/x", "merge": {"run_name": ["$PLACE", "${PLACE}"]}, "sources": ["${NOWHERE}/a"]}
    found = expand(given, problems)
    assert found == {"data": "/data/x", "merge": {"run_name": ["$PLACE", "/data"]}, "sources": ["${NOWHERE}/a"]}
    assert problems == [
        "sources=['${NOWHERE}/a']: the environment variable NOWHERE is not set; put NOWHERE=... before the command."
    ]


def test_a_value_that_holds_itself_is_named(tmp_path):
    problems = Problems()
    expand(read_options([written(tmp_path, "sources: &s [a, *s]")]), problems)
    assert "sources: holds itself" in problems[0]


def test_lists_are_taken_out_of_options():
    options = {"seeds": "3", "counts": [1, 2]}
    assert [pop_list(options, name, [5]) for name in ("seeds", "counts", "other")] == [["3"], [1, 2], [5]]
    assert options == {}
