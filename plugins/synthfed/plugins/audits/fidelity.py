"""How far the synthetic table's one-way and two-way distributions are from real rows it never saw.

Never takes a bin edge from data: bins come from the schema, so that two runs measure the same thing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from synthfed.plugins.api import Array, Source
from synthfed.protocols.errors import DataError
from synthfed.protocols.schema import Categorical, Records, Scalar
from synthfed.protocols.study import Study

from ..domains.encoding import scalars
from .estimate import (
    LEVEL,
    Estimate,
    independent_columns,
    interval,
    resample_counts,
    subsample,
    unfit_for_tables,
)
from .features import unit_scale

BINS = 20
_REPLICATES = 100
_MAX_ROWS = 10_000  # of each table: more would narrow the interval below what anyone can use
_MAX_PAIRS = 300  # of columns: drawn by the seed when there are more
_MAX_CELLS = 128  # of one column in a pair: later categories share the last cell

Cells = npt.NDArray[np.int64]
"""Each value's bin, shape ``(rows, columns)``."""


def count_bins(column: Scalar) -> int:
    """Return how many bins a column has: one per category, or the lower bound's and 20; and one for missing."""
    return 1 + (len(column.values) if isinstance(column, Categorical) else 1 + BINS)


def place(column: Scalar, values: Array) -> Cells:
    """Return each value's bin, shape ``(rows,)``; the last bin is for missing values.

    A number's lower bound has a bin of its own, because tables often pile up there (nothing spent,
    no visit) and a distance that spreads the pile over a bin would not see it missing.
    """
    missing = np.isnan(values)
    if isinstance(column, Categorical):
        bins = np.where(missing, 0, values)
    else:
        share = np.where(missing, 0.0, unit_scale(column, values))
        bins = np.where(share <= 0, 0, 1 + np.minimum(np.floor(share * BINS), BINS - 1))
    return np.where(missing, count_bins(column) - 1, bins).astype(np.int64)


def place_all(columns: Sequence[Scalar], records: Records) -> Cells:
    """Return the bins of whole records, shape ``(rows, columns)``."""
    return np.stack([place(column, records[:, i]) for i, column in enumerate(columns)], axis=1)


def uniform_records(columns: Sequence[Scalar], rows: int, rng: np.random.Generator) -> Records:
    """Return rows drawn evenly over the schema, each column on its scale: what one can make without any data."""
    return np.stack([_uniform(column, rows, rng) for column in columns], axis=1)


def _uniform(column: Scalar, rows: int, rng: np.random.Generator) -> Array:
    if isinstance(column, Categorical):
        return rng.integers(len(column.values), size=rows).astype(np.float64)
    share, width = rng.random(rows), float(column.upper - column.lower)
    return column.lower + (np.expm1(share * np.log1p(width)) if column.scale == "log" else share * width)


class Fidelity:
    """Total variation distances to held-out real rows, in [0, 1], less is better.

    ``tvd1`` is the mean over columns and ``tvd2`` the mean over pairs of columns. All tables are
    cut to one size, so that the distance two finite samples always have is the same for each.
    The control is the train rows. The baseline of the one-way distances is rows drawn evenly from
    the schema; that of the two-way distance is train rows with their columns shuffled apart, which
    know every one-way distribution and no dependence.
    """

    name = "fidelity"
    question = "How far are the synthetic distributions of columns and of pairs of columns from real ones?"
    needs: tuple[Source, ...] = ("synthetic", "train", "holdout")

    def unfit(self, study: Study) -> str:
        """Return why distances of distributions say nothing about a study's records, empty if they do."""
        return unfit_for_tables(study)

    def run(self, study: Study, rows: Mapping[Source, Records], seed: int) -> tuple[Estimate, ...]:
        """Return tvd2, tvd1 and each column's tvd1, against the holdout rows.

        Raises:
            DataError: a table has no row.
        """
        if any(len(rows[source]) == 0 for source in self.needs):
            raise DataError("the fidelity audit needs at least one row of each table")
        columns = scalars(study.columns, "the fidelity audit")
        rng = np.random.default_rng(seed)
        size = min(_MAX_ROWS, len(rows["synthetic"]), len(rows["train"]))
        train = subsample(rows["train"], size, rng)
        tables = {
            "synthetic": subsample(rows["synthetic"], size, rng),
            "control": train,
            "apart": independent_columns(train, rng),
            "uniform": uniform_records(columns, len(train), rng),
            "holdout": subsample(rows["holdout"], _MAX_ROWS, rng),
        }
        cells = {name: place_all(columns, table) for name, table in tables.items()}
        return _measure(study, cells, rng)


@dataclass(frozen=True, slots=True)
class _Distances:
    """Distances of one table to the holdout: of each group of columns, and their bootstrap replicates."""

    values: Array  # (groups,)
    replicates: Array  # (groups, replicates)


def _measure(study: Study, cells: Mapping[str, Cells], rng: np.random.Generator) -> tuple[Estimate, ...]:
    sizes = [count_bins(column) for column in scalars(study.columns, "the fidelity audit")]
    single = [(i,) for i in range(len(sizes))]
    pairs = _pairs(len(sizes), rng)
    weights = tuple(resample_counts(len(cells[name]), _REPLICATES, rng) for name in ("synthetic", "holdout"))

    def distances(name: str, groups: Sequence[tuple[int, ...]], limit: int) -> _Distances:
        bootstrap = weights if name == "synthetic" else None
        each = [_distance(cells[name], cells["holdout"], sizes, group, limit, bootstrap) for group in groups]
        return _Distances(np.array([value for value, _ in each]), np.array([draws for _, draws in each]))

    one = {name: distances(name, single, max(sizes)) for name in ("synthetic", "control", "uniform")}
    columns = tuple(
        _estimate("tvd1", one["synthetic"], one["uniform"], one["control"], [i], column.name)
        for i, column in enumerate(study.columns)
    )
    whole = _estimate("tvd1", one["synthetic"], one["uniform"], one["control"], list(range(len(single))))
    if not pairs:
        return (whole, *columns)
    two = {name: distances(name, pairs, _MAX_CELLS) for name in ("synthetic", "control", "apart")}
    both = _estimate("tvd2", two["synthetic"], two["apart"], two["control"], list(range(len(pairs))))
    return (both, whole, *columns)


def _estimate(
    name: str, mine: _Distances, baseline: _Distances, control: _Distances, groups: list[int], column: str = ""
) -> Estimate:
    value = float(mine.values[groups].mean())
    low, high = interval(value, mine.replicates[groups].mean(axis=0))
    floor, ceiling = float(baseline.values[groups].mean()), float(control.values[groups].mean())
    return Estimate(name, value, low, high, LEVEL, floor, ceiling, column)


def _pairs(columns: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    pairs: list[tuple[int, ...]] = list(combinations(range(columns), 2))
    if len(pairs) <= _MAX_PAIRS:
        return pairs
    return [pairs[i] for i in np.sort(rng.choice(len(pairs), _MAX_PAIRS, replace=False))]


def _distance(
    mine: Cells,
    real: Cells,
    sizes: Sequence[int],
    group: tuple[int, ...],
    limit: int,
    weights: tuple[Array, ...] | None,
) -> tuple[float, Array]:
    """Return the distance of two tables over a group of columns, and that of each pair of resamples."""
    shape = [min(sizes[i], limit) for i in group]
    joint = [np.ravel_multi_index([np.minimum(cells[:, i], limit - 1) for i in group], shape) for cells in (mine, real)]
    total = int(np.prod(shape))
    value = _tvd(*(np.bincount(cells, minlength=total) / len(cells) for cells in joint))
    if weights is None:
        return value, np.empty(0)
    draws = [
        _tvd(*(np.bincount(cells, drawn, total) / len(cells) for cells, drawn in zip(joint, pair, strict=True)))
        for pair in zip(*weights, strict=True)
    ]
    return value, np.array(draws)


def _tvd(first: Array, second: Array) -> float:
    return 0.5 * float(np.abs(first - second).sum())
