"""How far records lie from each other, on scales that follow from the schema.

Never looks at a record to choose a scale, and never holds the distances of all rows to all others at once.
"""

from typing import Final

import numpy as np

from synthfed.plugins.api import Array
from synthfed.protocols.schema import ArrayColumn, Records
from synthfed.protocols.study import Study

from ..domains.encoding import scalars
from .features import array_features, table_features

BLOCK: Final = 500
"""Rows of a distance matrix at a time."""


def features_of(study: Study, records: Records) -> Array:
    """Return what distances between a study's records are measured on: the arrays of those that have any, or all."""
    if any(isinstance(column, ArrayColumn) for column in study.columns):
        return array_features(study.columns, records)
    return table_features(scalars(study.columns, "an audit of distances"), records)


def squared_distances(first: Array, second: Array) -> Array:
    """Return the squared Euclidean distance of every row to every other, shape ``(rows, others)``.

    Rounding may leave up to about 1e-12 of the rows' squared norms between equal rows.
    """
    squares: Array = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1) - 2 * first @ second.T
    return np.maximum(squares, 0.0)


def nearest(rows: Array, others: Array) -> Array:
    """Return each row's squared distance to the nearest of the others, shape ``(rows,)``.

    >>> nearest(np.array([[0.0], [5.0]]), np.array([[1.0], [3.0]])).tolist()
    [1.0, 4.0]
    """
    starts = range(0, len(rows), BLOCK)
    parts = [squared_distances(rows[start : start + BLOCK], others).min(axis=1) for start in starts]
    return np.concatenate(parts) if parts else np.empty(0)
