"""The public description of a site's records: columns, their kinds, values and bounds.

Never takes a bound or a category from private data: the schema is agreed before a record is read.
"""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Records = npt.NDArray[np.float64]
"""Records, shape ``(rows, width)``: a category's index, a number, or NaN where missing.

Every column takes one place, an array column one place for each of its numbers, in row-major order.
"""

MAX_CATEGORIES = 4096
MAX_COLUMNS = 512
MAX_WIDTH = 2**20
_LEAST_WIDTH = 1e-9  # of the larger bound
_MAX_EXACT = 2**53  # beyond this a float64 no longer holds every integer

Name = Annotated[str, Field(min_length=1, max_length=64)]


class Strict(BaseModel):
    """The settings of every model that outside text enters: nothing extra, nothing coerced, nothing changed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Categorical(Strict):
    """A column of named values; its order is that of ``values``."""

    name: Name
    kind: Literal["categorical"] = "categorical"
    values: Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_CATEGORIES, strict=False)]
    missing: bool = False

    @field_validator("values")
    @classmethod
    def _values_are_distinct_and_not_empty(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(values)) != len(values):
            raise ValueError("lists a category twice; list each once")
        if "" in values:
            raise ValueError("lists the empty text; use `missing = true` for missing values")
        return values


class Integer(Strict):
    """A column of whole numbers between two public bounds, both included."""

    name: Name
    kind: Literal["integer"] = "integer"
    lower: Annotated[int, Field(ge=-_MAX_EXACT, le=_MAX_EXACT)]
    upper: Annotated[int, Field(ge=-_MAX_EXACT, le=_MAX_EXACT)]
    scale: Literal["linear", "log"] = "linear"
    missing: bool = False

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        _check_bounds(self.lower, self.upper)
        return self


class Real(Strict):
    """A column of real numbers between two public bounds, both included, written with ``decimals`` places."""

    name: Name
    kind: Literal["real"] = "real"
    lower: float
    upper: float
    scale: Literal["linear", "log"] = "linear"
    decimals: Annotated[int, Field(ge=0, le=12)] = 4
    missing: bool = False

    @field_validator("lower", "upper", mode="before")
    @classmethod
    def _integers_are_reals(cls, value: object) -> object:
        return _as_real(value)

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        _check_bounds(self.lower, self.upper)
        return self


class ArrayColumn(Strict):
    """A column of arrays of one shape: pixels ``(channels, height, width)``, a series ``(leads, steps)``, voxels.

    Every number lies between two public bounds, both included, and is written with ``decimals`` places.
    """

    name: Name
    kind: Literal["array"] = "array"
    shape: Annotated[tuple[Annotated[int, Field(ge=1, le=MAX_WIDTH)], ...], Field(min_length=1, max_length=4)] = Field(
        strict=False
    )
    lower: float
    upper: float
    decimals: Annotated[int, Field(ge=0, le=12)] = 0
    missing: Literal[False] = False

    @field_validator("lower", "upper", mode="before")
    @classmethod
    def _integers_are_reals(cls, value: object) -> object:
        return _as_real(value)

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        _check_bounds(self.lower, self.upper)
        return self


Scalar = Categorical | Integer | Real
"""A column with one value in each record."""
Column = Annotated[Categorical | Integer | Real | ArrayColumn, Field(discriminator="kind")]
Columns = Annotated[tuple[Column, ...], Field(min_length=1, max_length=MAX_COLUMNS, strict=False)]


def width_of(column: Column) -> int:
    """Return how many places of a record a column takes."""
    return math.prod(column.shape) if isinstance(column, ArrayColumn) else 1


def places(columns: Sequence[Column]) -> tuple[int, ...]:
    """Return each column's first place in a record and, last, the record's width.

    >>> pixels = ArrayColumn(name="pixels", shape=(1, 8, 8), lower=0, upper=16)
    >>> places([pixels, Categorical(name="digit", values=("zero", "one"))])
    (0, 64, 65)
    """
    return tuple(accumulate(map(width_of, columns), initial=0))


def check_columns(columns: Sequence[Column]) -> None:
    """Raise ValueError unless every column has a name of its own and a record is of bounded width."""
    names = [column.name for column in columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"column {twice[0]!r} is declared twice; give every column its own name")
    if places(columns)[-1] > MAX_WIDTH:
        raise ValueError(f"a record has more than {MAX_WIDTH:,} numbers; declare fewer or smaller arrays")


def _as_real(value: object) -> object:
    """Return a whole number as the real one that a schema's bound means; anything else as it is."""
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > _MAX_EXACT:
            raise ValueError("is too large to be held exactly; use a larger unit for the column")
        return float(value)
    return value


def _check_bounds(lower: float, upper: float) -> None:
    if not lower < upper:
        raise ValueError("lower must be less than upper")
    if max(abs(lower), abs(upper)) > _MAX_EXACT:
        raise ValueError("bounds beyond 2**53 cannot be held exactly; use a larger unit for the column")
    if upper - lower < _LEAST_WIDTH * max(abs(lower), abs(upper)):
        raise ValueError("lower and upper are too close to tell values apart; give the column wider bounds")
