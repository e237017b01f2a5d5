"""Values of options: brought to their type, held against what is allowed, all that is wrong said at once."""

import difflib
import enum
import json
import math
import reprlib
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from ..errors import SettingsError


SHOWN = reprlib.Repr()
SHOWN.maxstring = SHOWN.maxother = 200

WORDS = {True: ("true", "yes", "y", "t", "1"), False: ("false", "no", "n", "f", "0")}


def show(name: str, value: Any) -> str:
    """A value in a message: never a token, never pages of it."""
    return "..." if "token" in name else SHOWN.repr(value)


class Problems(list[str]):
    """What is wrong with options, until all of them were looked at."""

    def value(self, name: str, value: Any, expected: str) -> None:
        """Note an option that has a value which it cannot have."""
        self.append(f"{name}={show(name, value)}: expected {expected}{'' if expected.endswith('?') else '.'}")

    def raise_all(self) -> None:
        """A SettingsError with all that was noted."""
        if self:
            several = f"{len(self)} options are wrong:\n- " if len(self) > 1 else ""
            raise SettingsError(several + "\n- ".join(self))


class Rule:
    """What one option takes.

    Args:
        hint: its type.
        allowed: a `Range`, or words; of a list: of each of its values.
        count: of a list: how many values.

    Example:
        >>> from medmerge_hf.runs.options import Range
        >>> rule = Rule(list[float], Range(0, 1), count=2)
        >>> rule.converted(["0.5", 1]), rule.expected
        ([0.5, 1.0], '2 numbers, each at least 0 and at most 1')
    """

    def __init__(self, hint: Any, allowed: Any = None, count: int | None = None) -> None:
        members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        self.members = sorted((m for m in members if m is not type(None)), key=_specific)
        if len(self.members) > 1 and _is_enum(self.members[0]):
            self.members = self.members[:1]  # `SchedulerType | str` takes those words only
        self.allowed, self.count = allowed, count

    @property
    def expected(self) -> str:
        """For people."""
        return " or ".join(dict.fromkeys(self._expected(member) for member in self.members))

    def _expected(self, member: Any) -> str:
        if words := self._words(member):
            return f"one of {', '.join(map(str, words))}"
        if get_origin(member) is list:
            (item,) = get_args(member)
            what = {int: "whole numbers", float: "numbers", str: "texts"}.get(item, "values")
            many = f"{self.count} {what}" if self.count else f"a list of {what}"
            return f"{many}, each {self.allowed}" if self.allowed else many
        named = {bool: "true or false", int: "a whole number", float: "a number", str: "text (a number in quotes)"}
        found = named.get(member, "a mapping")
        return f"{found} {self.allowed}" if self.allowed else found

    def _words(self, member: Any) -> list[Any]:
        if _is_enum(member):
            return [one.value for one in member]
        if get_origin(member) is Literal:
            return list(get_args(member))
        return list(self.allowed) if isinstance(self.allowed, (list, tuple)) else []

    def converted(self, value: Any) -> Any:
        """A value of the option's type.

        Raises:
            ValueError: it is none.
        """
        for member in self.members:
            try:
                return self._convert(value, member)
            except (ValueError, OverflowError, RecursionError):
                continue
        raise ValueError

    def _convert(self, value: Any, member: Any) -> Any:
        if get_origin(member) is list:
            values = value if isinstance(value, (list, tuple)) else [value]
            if self.count not in (None, len(values)):
                raise ValueError
            item = Rule(get_args(member)[0], self.allowed)
            return [item.converted(one) for one in values]
        if words := self._words(member):
            return _word(value, words)
        found = _convert(value, member)
        if self.allowed and found not in self.allowed:
            raise ValueError
        return found


def _is_enum(member: Any) -> bool:
    return isinstance(member, type) and issubclass(member, enum.Enum)


def _specific(member: Any) -> int:
    """Kinds that take less come first."""
    order = (bool, int, float, str)
    return -1 if _is_enum(member) else order.index(member) + 1 if member in order else 0


def _word(value: Any, words: Iterable[Any]) -> Any:
    value = "no" if value is False and "no" in words else value  # YAML reads the word `no` as false
    if isinstance(value, (str, bool)) and value in words:
        return value
    raise ValueError


def _convert(value: Any, kind: Any) -> Any:
    if kind is Any:
        return value
    if kind is bool:
        return _truth(value)
    if kind in (int, float):
        return _number(value, kind)
    if kind is str and isinstance(value, str):
        return value
    if kind is dict or get_origin(kind) is dict:
        return _mapping(value)
    raise ValueError


def _truth(value: Any) -> bool:
    text = str(value).lower()
    for truth, words in WORDS.items():
        if isinstance(value, (bool, int, str)) and text in words:
            return truth
    raise ValueError


def _number(value: Any, kind: type) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError
    if kind is int and isinstance(value, float):
        raise ValueError
    found = kind(value)
    if not math.isfinite(found):
        raise ValueError
    return found


def _mapping(value: Any) -> dict[str, Any]:
    found = json.loads(value) if isinstance(value, str) else value
    if not isinstance(found, Mapping):
        raise ValueError
    return dict(found)


def check_values(
    given: Mapping[str, Any], rules: Mapping[str, Rule], problems: Problems, prefix: str = ""
) -> dict[str, Any]:
    """Bring values to their types.

    Args:
        given: name -> value; `None` stands for the default.
        rules: of the options that there are; other names are none of this function's business.
        problems: receives what is wrong.
        prefix: of the names in messages.

    Returns:
        Those that are right.
    """
    found = {}
    for name, value in given.items():
        if value is None or name not in rules:
            continue
        try:
            found[name] = rules[name].converted(value)
        except ValueError:
            rule = rules[name]
            words = [str(word) for member in rule.members for word in rule._words(member)]
            problems.value(f"{prefix}{name}", value, rule.expected + did_you_mean(str(value), words))
    return found


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """The end of a message: the word that is most like another, or nothing.

    Example:
        >>> did_you_mean("filtr", ["layer", "filter"])
        '; did you mean filter?'
    """
    close = difflib.get_close_matches(word, list(words), 1)
    return f"; did you mean {close[0]}?" if close else ""


def check_names(names: Iterable[Any], known: Iterable[str], problems: Problems, prefix: str = "") -> None:
    """Note names that no option has, each with the one that was probably meant.

    Args:
        names: as they were given.
        known: of the options that there are, in the form of `prefix` and name.
        problems: receives what is wrong.
        prefix: `merge.` or `finetune.` below a stage.
    """
    known = list(known)
    for name in names:
        full = f"{prefix}{name}"
        if full in known:
            continue
        last = [other for other in known if other.rpartition(".")[2] == str(name)]
        close = last or difflib.get_close_matches(full, known, 1, 0.75)
        hint = f"; did you mean {' or '.join(close)}?" if close else "."
        problems.append(f"{full}: there is no such option{hint}")
