"""The options of a run as the user gives them: YAML file and command line -> one mapping."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..errors import SettingsError
from .checks import Problems, show
from .options import STAGES


VARIABLE = re.compile(r"\$\{(\w+)\}")


def read_options(argv: Sequence[str]) -> dict[str, Any]:
    """YAML file (first argument, optional) and command line as one mapping, with one in it for each stage.

    Args:
        argv: `CONFIG.yaml --option value ... --merge.option value ...`; what stands there wins over the file.

    Returns:
        Option -> value; from the command line text, or a list of texts. Nothing is checked yet.

    Raises:
        SettingsError: a file that is no YAML mapping, or a word where an option is expected.

    Example:
        >>> read_options(["--seed", "7", "--merge.learning_rate=0.5", "--sources", "a", "b"])
        {'merge': {'learning_rate': '0.5'}, 'finetune': {}, 'seed': '7', 'sources': ['a', 'b']}
    """
    arguments = list(argv)
    options: dict[str, Any] = {}
    if arguments and not arguments[0].startswith("-"):
        options = _read_yaml(Path(arguments.pop(0)))
    for stage in STAGES:
        given = options.get(stage)
        options[stage] = dict(given) if isinstance(given, Mapping) else {} if given is None else given
    while arguments:
        _read_option(arguments, options)
    return options


def _read_option(arguments: list[str], options: dict[str, Any]) -> None:
    """Take an option and its values off the front of the arguments."""
    word = arguments.pop(0)
    name, found, value = word.removeprefix("--").partition("=")
    if not word.startswith("--") or not name:
        raise SettingsError(f"Expected an option such as --seed, found {word!r}.")
    values = [value] if found else []
    while arguments and not arguments[0].startswith("--"):
        values.append(arguments.pop(0))
    stage, dot, option = name.partition(".")
    below = dot and isinstance(options.get(stage), dict) and stage in STAGES
    where, key = (options[stage], option) if below else (options, name)
    where[key] = values if len(values) > 1 else (values or ["true"])[0]


def pop_list(options: dict[str, Any], name: str, default: Iterable[Any]) -> list[Any]:
    """Take an option of one value or more out of the options."""
    value = options.pop(name, list(default))
    return value if isinstance(value, list) else [value]


class _Loader(yaml.SafeLoader):
    """YAML in which no name stands twice: of two values PyYAML would take the last without a word."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                raise yaml.composer.ComposerError(None, None, f"{key.value!r} stands there twice", key.start_mark)
            seen.add(key.value)
        return node


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        options = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"Config {str(file)!r} cannot be read ({error}).") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"Config {str(file)!r} is no YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(options, dict):
        raise SettingsError(f"Config {str(file)!r} is not a mapping of options, such as `seed: 0`.")
    return options


def expand(options: Mapping[str, Any], problems: Problems) -> dict[str, Any]:
    """Options with the environment's value for each `${NAME}` in their texts.

    Args:
        options: of [`read_options`].
        problems: receives variables that are not set, and values that hold themselves.

    Returns:
        A copy.
    """
    found = {}
    for name, value in options.items():
        missing: dict[str, None] = {}
        try:
            found[name] = _expand(value, missing)
        except RecursionError:
            problems.append(f"{name}: holds itself (a YAML anchor inside what it names).")
            continue
        if missing:
            given = " ".join(f"{variable}=..." for variable in missing)
            names = ", ".join(missing)
            text = f"{name}={show(name, value)}: the environment variable {names} is not set"
            problems.append(f"{text}; put {given} before the command.")
    return found


def _expand(value: Any, missing: dict[str, None]) -> Any:
    if isinstance(value, Mapping):
        return {key: _expand(item, missing) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_expand(item, missing) for item in value]
    if not isinstance(value, str):
        return value
    missing.update(dict.fromkeys(name for name in VARIABLE.findall(value) if name not in os.environ))
    return VARIABLE.sub(lambda match: os.environ.get(match[1], match[0]), value)
