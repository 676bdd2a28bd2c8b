"""Records as numbers between 0 and 1 that distances and classifiers of an audit can use.

Never looks at a record to choose a scale: every one follows from the schema.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

import numpy as np

from synthfed.plugins.api import Array
from synthfed.protocols.schema import ArrayColumn, Categorical, Column, Integer, Real, Records, Scalar, places

MAX_NUMBERS: Final = 1024
"""Numbers of one array that an audit looks at; a larger array is averaged down."""

_MAX_ONE_HOT: Final = 64  # of one column: later categories share the last place


def unit_scale(column: Integer | Real, values: Array) -> Array:
    """Return values on the column's scale, 0 at its lower bound and 1 at its upper; NaN stays NaN.

    >>> unit_scale(Integer(name="age", lower=0, upper=10), np.array([0.0, 5.0, 99.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    above = np.clip(values, column.lower, column.upper) - column.lower
    width = float(column.upper - column.lower)
    return np.log1p(above) / np.log1p(width) if column.scale == "log" else above / width


def scalar_features(column: Scalar, values: Array) -> Array:
    """Return a column as features: one-hot categories, or the scaled number and whether it is missing."""
    missing = np.isnan(values)
    if not isinstance(column, Categorical):
        return np.stack([np.where(missing, 0.0, unit_scale(column, values)), missing], axis=1)
    width = min(len(column.values), _MAX_ONE_HOT)
    place = np.where(missing, -1, np.minimum(values, width - 1)).astype(np.int64)
    return np.equal(place[:, None], np.arange(width)).astype(np.float64)


def array_features(columns: Sequence[Column], records: Records) -> Array:
    """Return the numbers of all array columns between 0 and 1, large arrays averaged down, ``(rows, features)``."""
    parts = [
        _pooled(_scaled(column, records[:, first : first + math.prod(column.shape)]))
        for column, first in zip(columns, places(columns), strict=False)
        if isinstance(column, ArrayColumn)
    ]
    return np.concatenate(parts, axis=1)


def table_features(columns: Sequence[Scalar], records: Records) -> Array:
    """Return all columns as features in which two categories are as far apart as two bounds, ``(rows, features)``."""
    parts = [
        scalar_features(column, records[:, i]) * (math.sqrt(0.5) if isinstance(column, Categorical) else 1.0)
        for i, column in enumerate(columns)
    ]
    return np.concatenate(parts, axis=1)


def gaussian_arrays(
    columns: Sequence[Column], records: Records, label: int | None, rng: np.random.Generator
) -> Records:
    """Return records whose arrays are drawn number by number around the mean of their label: a trivial model of arrays.

    Each record keeps its scalar columns. A number is normal with the mean and the variance that it
    has in all records of the same label, and cut at the column's bounds.

    Args:
        columns: the schema.
        records: real records, shape ``(rows, width)``.
        label: the place of the label in a record; None to take all records for one class.
        rng: of the draws.
    """
    drawn = records.copy()
    classes = np.zeros(len(records)) if label is None else np.nan_to_num(records[:, label], nan=-1.0)
    for column, first in zip(columns, places(columns), strict=False):
        if isinstance(column, ArrayColumn):
            numbers = slice(first, first + math.prod(column.shape))
            for each in np.unique(classes):
                mine = records[classes == each][:, numbers]
                around = rng.normal(mine.mean(axis=0), mine.std(axis=0), mine.shape)
                drawn[classes == each, numbers] = np.clip(around, column.lower, column.upper)
    return drawn


def one_thread() -> AbstractContextManager[Any]:
    """Return a limit to one thread: the same sums on every machine, and no spinning on a busy one."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    limit: AbstractContextManager[Any] = threadpool_limits(1)
    return limit


def _scaled(column: ArrayColumn, numbers: Array) -> Array:
    share = (np.clip(numbers, column.lower, column.upper) - column.lower) / (column.upper - column.lower)
    return share.reshape(-1, *column.shape)


def _pooled(arrays: Array) -> Array:
    """Halve the longest axis by averaging neighbours until few enough numbers are left, and flatten."""
    while math.prod(arrays.shape[1:]) > MAX_NUMBERS:
        axis = 1 + int(np.argmax(arrays.shape[1:]))
        even = np.take(arrays, range(arrays.shape[axis] // 2 * 2), axis=axis)
        halved = (*even.shape[:axis], even.shape[axis] // 2, 2, *even.shape[axis + 1 :])
        arrays = even.reshape(halved).mean(axis=axis + 1)
    return arrays.reshape(len(arrays), -1)
