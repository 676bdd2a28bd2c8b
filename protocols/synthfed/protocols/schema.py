"""The public description of a table: columns, their kinds, values and bounds.

Never takes a bound or a category from private data: the schema is agreed before a record is read.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Records = npt.NDArray[np.float64]
"""Rows of a table, shape ``(rows, columns)``: a category's index, a number, or NaN where missing."""

MAX_CATEGORIES = 4096
MAX_COLUMNS = 512
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
        if isinstance(value, int) and not isinstance(value, bool):
            if abs(value) > _MAX_EXACT:
                raise ValueError("is too large to be held exactly; use a larger unit for the column")
            return float(value)
        return value

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        _check_bounds(self.lower, self.upper)
        return self


Column = Annotated[Categorical | Integer | Real, Field(discriminator="kind")]
Columns = Annotated[tuple[Column, ...], Field(min_length=1, max_length=MAX_COLUMNS, strict=False)]


def check_names(columns: Sequence[Categorical | Integer | Real]) -> None:
    """Raise ValueError unless every column has a name of its own."""
    names = [column.name for column in columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"column {twice[0]!r} is declared twice; give every column its own name")


def _check_bounds(lower: float, upper: float) -> None:
    if not lower < upper:
        raise ValueError("lower must be less than upper")
    if max(abs(lower), abs(upper)) > _MAX_EXACT:
        raise ValueError("bounds beyond 2**53 cannot be held exactly; use a larger unit for the column")
    if upper - lower < _LEAST_WIDTH * max(abs(lower), abs(upper)):
        raise ValueError("lower and upper are too close to tell values apart; give the column wider bounds")
