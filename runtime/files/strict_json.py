"""JSON from outside, parsed strictly and held to rules; it knows nothing of what the numbers mean.

Python's own parser takes more than JSON is (NaN, a name twice, integers of any length) and says nothing about types.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

MAX_DIGITS = 20  # of an integer; 2 ** 64 has as many
MAX_TEXT = 1000  # characters of one string


class Fault(ValueError):
    """What was found in place of what was wanted, and where."""


class Rule(Protocol):
    """What one value may be."""

    def check(self, value: Any, where: str) -> None:
        """Raise Fault for a value that is something else; `where` names it for people, "" the whole."""


@dataclass(frozen=True, slots=True)
class Boolean:
    """True or False, and nothing that counts as one of them."""

    def check(self, value: Any, where: str) -> None:
        if type(value) is not bool:
            _refuse(value, where, "true or false")


@dataclass(frozen=True, slots=True)
class Integer:
    """An integer in a closed range; True and False are none."""

    low: int
    high: int
    step: int = 1

    def check(self, value: Any, where: str) -> None:
        if type(value) is not int or not self.low <= value <= self.high or value % self.step:
            multiple = f", a multiple of {self.step}" if self.step > 1 else ""
            _refuse(value, where, f"an integer from {self.low} to {self.high}{multiple}")


@dataclass(frozen=True, slots=True)
class Number:
    """A finite number in a closed range."""

    low: float
    high: float

    def check(self, value: Any, where: str) -> None:
        # Nothing that is not finite lies in a range.
        if type(value) not in (int, float) or not self.low <= value <= self.high:
            _refuse(value, where, f"a number from {self.low:g} to {self.high:g}")


@dataclass(frozen=True, slots=True)
class Numbers:
    """A list of so many numbers, or of lists of them."""

    item: Rule
    shortest: int
    longest: int

    def check(self, value: Any, where: str) -> None:
        if type(value) is not list or not self.shortest <= len(value) <= self.longest:
            count = (
                f"{self.shortest}"
                if self.shortest == self.longest
                else f"{self.shortest} to {self.longest}"
            )
            _refuse(value, where, f"a list of {count}")
        for number, item in enumerate(value):
            self.item.check(item, f"{where}[{number}]")


@dataclass(frozen=True, slots=True)
class Text:
    """A string of printable characters: no NUL, no line breaks, no halves of a surrogate pair."""

    def check(self, value: Any, where: str) -> None:
        if type(value) is not str or not value.isprintable() or not 0 < len(value) <= MAX_TEXT:
            _refuse(value, where, f"a line of up to {MAX_TEXT} printable characters")


@dataclass(frozen=True, slots=True)
class Sha256:
    """The 64 lower-case hexadecimal digits of a SHA-256."""

    def check(self, value: Any, where: str) -> None:
        if type(value) is not str or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
            _refuse(value, where, "the 64 hexadecimal digits of a SHA-256")


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of some strings."""

    names: Sequence[str]

    def check(self, value: Any, where: str) -> None:
        if type(value) is not str or value not in self.names:
            _refuse(value, where, f"one of {', '.join(self.names)}")


@dataclass(frozen=True, slots=True)
class Object:
    """Values by name.

    Attributes:
        required: names that must be there.
        optional: names that may be there.
        others: whether further names may be there, which nobody reads.
    """

    required: Mapping[str, Rule] = field(default_factory=dict)
    optional: Mapping[str, Rule] = field(default_factory=dict)
    others: bool = False

    def check(self, value: Any, where: str) -> None:
        if type(value) is not dict:
            _refuse(value, where, "an object")
        if missing := [name for name in self.required if name not in value]:
            raise Fault(f"{where or 'it'} lacks {', '.join(missing)}")
        for name, item in value.items():
            rule = self.required.get(name) or self.optional.get(name)
            if rule is not None:
                rule.check(item, f"{where}.{name}" if where else name)
            elif not self.others:
                keys = ", ".join([*self.required, *self.optional])
                raise Fault(
                    f"{where or 'it'} has an unknown {reprlib.repr(name)}; known are {keys}"
                )


def _refuse(value: Any, where: str, wanted: str) -> None:
    raise Fault(f"{where or 'it'} is {reprlib.repr(value)}, wanted {wanted}")


def parse(content: bytes | str) -> Any:
    """JSON as the standard has it, text or UTF-8. Raises Fault for anything else."""
    try:
        return json.loads(
            content.decode("utf-8") if isinstance(content, bytes) else content,
            object_pairs_hook=_unique_names,
            parse_constant=_no_constant,
            parse_int=_short_integer,
        )
    except RecursionError:
        raise Fault("it is nested too deeply") from None
    except ValueError as error:  # JSON's own and those of text encoding
        raise Fault(str(error)) from error


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise Fault(f"{reprlib.repr(_first_twice(name for name, _ in pairs))} is there twice")
    return values


def _first_twice(names: Iterable[str]) -> str:
    """The first name that has been there before: in one pass, since an object may have as many as it likes."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            break
        seen.add(name)
    return name


def _no_constant(name: str) -> None:
    raise Fault(f"{name} is no number of JSON's")


def _short_integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise Fault(f"an integer has {len(digits)} digits")
    return int(digits)
