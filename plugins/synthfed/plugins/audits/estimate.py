"""An audit's number with what is needed to read it: interval, trivial floor and real-data control.

Never draws without a seed, and never makes a number without its interval.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from synthfed.plugins.api import Array
from synthfed.protocols.schema import ArrayColumn, Records
from synthfed.protocols.study import Study

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """One measured number. No audit number travels without the other fields.

    Attributes:
        name: what was measured, such as ``tvd2`` or ``auc``.
        value: the measurement on all the rows.
        low: lower end of its interval.
        high: upper end of its interval.
        level: the interval's confidence level, in (0, 1).
        baseline: the same measurement of a trivial competitor; anything useful must beat it.
        control: the same measurement of real rows, the best one can hope for.
        column: the column it speaks of, empty for the whole table.
        warning: why the number must be read with care, empty if there is nothing to say.
    """

    name: str
    value: float
    low: float
    high: float
    level: float
    baseline: float
    control: float
    column: str = ""
    warning: str = ""


def unfit_for_tables(study: Study) -> str:
    """Return why an audit of tables says nothing about a study's records, empty where every column is one value."""
    arrays = [column.name for column in study.columns if isinstance(column, ArrayColumn)]
    return f"column {arrays[0]!r} is an array, and this audit compares tables" if arrays else ""


def resample_counts(rows: int, replicates: int, rng: np.random.Generator) -> Array:
    """Return how often each row is drawn in each bootstrap replicate, shape ``(replicates, rows)``."""
    return rng.multinomial(rows, np.full(rows, 1 / rows), size=replicates).astype(np.float64)


def interval(
    value: float, replicates: Array, *, level: float = LEVEL, least: float = 0.0, most: float = 1.0
) -> tuple[float, float]:
    """Return the bootstrap interval of a value, the replicates' quantiles shifted so as to centre on it.

    A distance between two samples grows when both are resampled, so that the raw quantiles would
    lie above the value itself. Shifting by that known bias keeps the spread and drops the bias
    (Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 10).

    Args:
        value: the measurement on all the rows.
        replicates: the measurement on each resample, shape ``(replicates,)``.
        level: confidence level, in (0, 1).
        least: smallest value the measurement can take; the interval is cut there.
        most: largest value the measurement can take.

    >>> low, high = interval(0.5, np.array([0.5, 0.6, 0.7]), level=0.5)
    >>> round(low, 3), round(high, 3)
    (0.45, 0.55)
    """
    tail = (1 - level) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail]) - np.mean(replicates)
    return max(least, float(value + min(low, 0.0))), min(most, float(value + max(high, 0.0)))


def independent_columns(records: Records, rng: np.random.Generator) -> Records:
    """Return the rows with each column shuffled by itself: every one-way count kept, every dependence lost."""
    return rng.permuted(records, axis=0)


def subsample(records: Records, rows: int, rng: np.random.Generator) -> Records:
    """Return at most ``rows`` of the rows, drawn without replacement, in their order."""
    if len(records) <= rows:
        return records
    return records[np.sort(rng.choice(len(records), rows, replace=False))]
