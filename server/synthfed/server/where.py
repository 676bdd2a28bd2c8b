"""Conditions on synthetic rows: ``column = value``, ``column in low..high``, ``column is missing``.

Never takes a condition for true that it did not look up in the rows themselves.
"""

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from synthfed.plugins.api import Given, Span
from synthfed.plugins.domains.encoding import written
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import ArrayColumn, Categorical, Column, Integer, Real, Records, Scalar, places

_FLAG: Final = "--where"
_FORMS: Final = "write `column = value`, `column in low..high` or `column is missing`"
_REST: Final = re.compile(r"\s*(?:=\s*(?P<value>.*)|\bin\s+(?P<range>.*)|\bis\s+(?P<missing>missing))", re.DOTALL)
_MOST_LISTED: Final = 12


@dataclass(frozen=True, slots=True)
class Condition:
    """What one column of every row must be: within two bounds, both included, or missing.

    Attributes:
        text: the condition as it was given.
        column: the column it is on.
        place: of that column in a record.
        span: the values that it may have.
    """

    text: str
    column: Scalar
    place: int
    span: Span

    def holds(self, records: Records) -> npt.NDArray[np.bool_]:
        """Return for each record whether it meets the condition as a file would show it, shape ``(rows,)``."""
        values = records[:, self.place]
        if self.span.is_missing:
            return np.isnan(values)
        if not isinstance(self.column, Categorical):
            values = written(self.column, values)
        return (values >= self.span.low) & (values <= self.span.high)  # false for a missing value


def parse_conditions(texts: Sequence[str], columns: Sequence[Column]) -> tuple[Condition, ...]:
    """Return the conditions that texts state on a study's columns.

    >>> age = Integer(name="age", lower=0, upper=99)
    >>> [each.span for each in parse_conditions(["age in 30..40"], [age])]
    [Span(low=30.0, high=40.0)]

    Raises:
        ConfigError: naming the column and what it can be.
    """
    conditions = tuple(_parse(text.strip(), columns) for text in texts)
    names = [condition.column.name for condition in conditions]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"column {twice!r} has two conditions; give one", where=_FLAG)
    return conditions


def given_by(conditions: Sequence[Condition], native: Collection[str]) -> Given:
    """Return those conditions that a model can fix by itself: on the columns ``native``."""
    return {each.column.name: each.span for each in conditions if each.column.name in native}


def _parse(text: str, columns: Sequence[Column]) -> Condition:
    for column, place in sorted(zip(columns, places(columns), strict=False), key=lambda pair: -len(pair[0].name)):
        match = _REST.fullmatch(text, len(column.name)) if text.startswith(column.name) else None
        if match is None:
            continue
        if isinstance(column, ArrayColumn):
            raise _error(column, "is an array; a condition is on a column with one value in each row")
        if match["missing"]:
            if not column.missing:
                raise _error(column, "is never missing in this study")
            return Condition(text, column, place, Span.at(math.nan))
        if isinstance(column, Categorical):
            return Condition(text, column, place, Span.at(_code(column, match["value"])))
        return Condition(text, column, place, _bounds(column, match["value"], match["range"]))
    names = _listed([column.name for column in columns])
    raise ConfigError(f"{text!r} begins with no column and condition; {_FORMS} (columns: {names})", where=_FLAG)


def _code(column: Categorical, value: str | None) -> int:
    allowed = f"its categories are {_listed(column.values)}"
    if value is None:
        raise _error(column, f"is categorical; write `{column.name} = category`, {allowed}")
    if value not in column.values:
        raise _error(column, f"has no category {value!r}; {allowed}")
    return column.values.index(value)


def _bounds(column: Integer | Real, value: str | None, span: str | None) -> Span:
    """Return the span that a text gives: within the column's bounds, the first number not above the second."""
    first, dots, last = (span or "").partition("..")
    ends = [value, value] if value is not None else [first, last] if dots else [span or ""]
    try:
        numbers = [float(end) for end in ends]
    except ValueError:
        numbers = []
    is_inside = all(column.lower <= number <= column.upper for number in numbers)
    if len(numbers) != 2 or not is_inside or numbers[0] > numbers[1]:
        kind = "whole numbers" if isinstance(column, Integer) else "numbers"
        raise _error(column, f"holds {kind} from {column.lower:g} to {column.upper:g}; {_FORMS} with such, low first")
    return Span(numbers[0], numbers[1])


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return ", ".join(map(repr, names[:_MOST_LISTED])) + more


def _error(column: Column, problem: str) -> ConfigError:
    return ConfigError(f"column {column.name!r} {problem}", where=_FLAG)
