"""The discretising one-hot encoder of a table: every column becomes one block of cells.

Never looks at a record to choose a cell's edge: the grid is a function of the signed schema alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import ArrayColumn, Categorical, Column, Integer, Real, Records, Scalar

from ..api import Given, Span

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]
Portions = Mapping[int, tuple[Array, Array]]
"""Where in each cell of a column, by its place, the values that are asked for begin and end; alike where none are."""

_HALVINGS: Final = 64  # of the unit interval: beyond them a float64 tells no two places apart


def scalars(columns: Sequence[Column], who: str) -> tuple[Scalar, ...]:
    """Return the columns, all with one value in each record.

    Raises:
        ConfigError: one is an array, which ``who`` cannot take.
    """
    kept = tuple(column for column in columns if not isinstance(column, ArrayColumn))
    if len(kept) < len(columns):
        name = next(column.name for column in columns if isinstance(column, ArrayColumn))
        raise ConfigError(f"column {name!r} is an array, and {who} is for tables; choose another", where="columns")
    return kept


@dataclass(frozen=True, slots=True)
class Block:
    """One column's cells: the ``edges`` of its bins on the column's scale, and whether missing has a cell.

    Bin i holds the scaled values in ``(edges[i], edges[i + 1]]``; two equal edges hold one value,
    the lower bound, which many long-tailed columns pile up on. Categories have no edges.

    Attributes:
        column: the schema's column.
        values: number of cells that are not the missing cell; that one, if any, comes last.
        edges: shape ``(values + 1,)``, or empty for categories.
    """

    column: Scalar
    values: int
    edges: Array

    @property
    def width(self) -> int:
        """Number of cells, missing included."""
        return self.values + int(self.column.missing)

    def encode(self, column: Array) -> Codes:
        """Return the cell of every value, shape ``(rows,)``; every float64 has one, for the core needs totality."""
        missing = np.isnan(column)
        known = np.where(missing, 0.0, column)
        if isinstance(self.column, Categorical):
            codes = np.clip(known, 0, self.values - 1).astype(np.int64)
        else:
            codes = np.searchsorted(self.edges[1:-1], _scaled(self.column, known), side="left")
        return np.where(missing, self.width - 1 if self.column.missing else 0, codes)

    def decode(self, codes: Codes, parts: Array) -> Array:
        """Return a value for every cell, shape ``(rows,)``.

        Args:
            codes: the cells, shape ``(rows,)``.
            parts: where inside its cell a number lies on the column's scale, from 0 to 1, shape ``(rows,)``.
        """
        column = self.column
        known = np.minimum(codes, self.values - 1)
        if isinstance(column, Categorical):
            values = known.astype(np.float64)
        else:
            low = self.edges[known]
            values = written(column, _unscaled(column, low + parts * (self.edges[known + 1] - low)))
        if column.missing:
            values[codes == self.values] = np.nan
        return values

    def portion(self, span: Span) -> tuple[Array, Array]:
        """Return where in each cell the values of a span begin and end, from 0 to 1, shape ``(width,)`` each.

        They are the values that ``decode`` gives, so that bounds are held as a file shows them.
        """
        begin, end = np.zeros(self.width), np.zeros(self.width)
        if span.is_missing:
            end[self.values :] = 1.0
        elif isinstance(self.column, Categorical):
            end[int(span.low) : int(span.high) + 1] = 1.0
        else:
            cells = np.arange(self.values)
            first = _first(lambda parts: self.decode(cells, parts) >= span.low, self.values)
            last = 1.0 - _first(lambda parts: self.decode(cells, 1.0 - parts) <= span.high, self.values)
            begin[cells], end[cells] = np.where(first < last, [first, last], 0.0)
        return begin, end

    def inside(self, column: Array) -> tuple[Array, Array]:
        """Return which part of its cell every value stands for: where that begins and how long it is.

        A written number stands for all that are rounded to it, a category and a missing value for
        their whole cell. Both answers are from 0 to 1, shape ``(rows,)``; every float64 has them.
        """
        begin, length = np.zeros(len(column)), np.ones(len(column))
        if isinstance(self.column, Categorical):
            return begin, length
        codes = np.minimum(self.encode(column), self.values - 1)
        low, high = self.edges[codes], self.edges[codes + 1]
        half = 0.5 if isinstance(self.column, Integer) else 0.5 * 10.0**-self.column.decimals
        split = ~np.isnan(column) & (high > low)
        known, width = np.where(split, column, 0.0), np.where(split, high - low, 1.0)
        ends = [np.clip((_scaled(self.column, known + side) - low) / width, 0, 1) for side in (-half, half)]
        return np.where(split, ends[0], begin), np.where(split, ends[1] - ends[0], length)


class OneHotEncoder:
    """Turns records into one-hot vectors, row by row, and sampled cells back into records.

    Attributes:
        blocks: one block per column.
        offsets: first cell of every block and, last, the width; shape ``(columns + 1,)``.
        width: number of cells of all blocks.
    """

    def __init__(self, columns: Sequence[Scalar], bins: int = 24, whole: int = 0, reals: int = 0) -> None:
        """Lay a public grid over the bounds of every numeric column.

        Args:
            columns: the schema.
            bins: cells of a column at most, beside the one of the lower bound.
            whole: but a column of at most so many whole numbers, or reals as written on a linear scale, has one for
                each.
            reals: and cells of any other reals on that scale, if that is more than ``bins``.
        """
        self.blocks = tuple(_block(column, bins, max(bins, whole), max(bins, reals)) for column in columns)
        self.offsets = np.cumsum([0, *(block.width for block in self.blocks)])
        self.width = int(self.offsets[-1])

    def codes(self, records: Records) -> Codes:
        """Return every record's cell in each column, shape ``(rows, columns)``."""
        columns = [block.encode(records[:, i]) for i, block in enumerate(self.blocks)]
        return np.stack(columns, axis=1)

    def encode(self, records: Records) -> Array:
        """Return every record as 0 and 1, one 1 per column, shape ``(rows, width)``."""
        cells = np.zeros((len(records), self.width))
        np.put_along_axis(cells, self.codes(records) + self.offsets[:-1], 1.0, axis=1)
        return cells

    def portions(self, given: Given) -> Portions:
        """Return which part of every cell holds what is asked for.

        Raises:
            ConfigError: a column can hold no such value.
        """
        names = [block.column.name for block in self.blocks]
        found = {names.index(name): self.blocks[names.index(name)].portion(span) for name, span in given.items()}
        for place, (begin, end) in found.items():
            if not (end > begin).any():
                span = given[names[place]]
                asked = "missing" if span.is_missing else f"from {span.low:g} to {span.high:g} as a file shows it"
                raise ConfigError(f"column {names[place]!r} has no value {asked}; ask for another")
        return found

    def decode(self, codes: Codes, rng: np.random.Generator, portions: Portions | None = None) -> Records:
        """Return records anywhere in the cells ``codes``, or in a part of each, within the bounds.

        Args:
            codes: shape ``(rows, columns)``.
            rng: where in its cell a number lies.
            portions: which part of a cell it lies in; all of it for columns that are not there.
        """
        records = np.empty(codes.shape, order="F")
        for i, block in enumerate(self.blocks):
            parts = np.zeros(len(codes)) if isinstance(block.column, Categorical) else rng.random(len(codes))
            if portions and i in portions:
                begin, end = (ends[codes[:, i]] for ends in portions[i])
                parts = np.minimum(begin + parts * (end - begin), end)  # a sum may be rounded beyond the end
            records[:, i] = block.decode(codes[:, i], parts)
        return records

    def decode_at(self, codes: Codes, parts: Array) -> Records:
        """Return records at these places inside the cells ``codes``; both of shape ``(rows, columns)``."""
        columns = [block.decode(codes[:, i], parts[:, i]) for i, block in enumerate(self.blocks)]
        return np.stack(columns, axis=1)

    def inside(self, records: Records) -> tuple[Array, Array]:
        """Return where in its cell each value begins and how much of it it stands for, ``(rows, columns)`` each."""
        columns = [block.inside(records[:, i]) for i, block in enumerate(self.blocks)]
        begin, length = (np.stack(each, axis=1) for each in zip(*columns, strict=True))
        return begin, length


def _first(holds: Callable[[Array], npt.NDArray[np.bool_]], count: int) -> Array:
    """Return the least numbers from 0 to 1 at which something holds that holds from there on; 1 where it never does.

    Args:
        holds: for each of ``count`` numbers, shape ``(count,)``.
        count: how many numbers.
    """
    before, found = np.zeros(count), np.ones(count)
    at_once = holds(before)
    for _ in range(_HALVINGS):
        middle = (before + found) / 2
        enough = holds(middle)
        before, found = np.where(enough, before, middle), np.where(enough, middle, found)
    return np.where(at_once, 0.0, found)


def _block(column: Scalar, bins: int, whole: int, reals: int) -> Block:
    if isinstance(column, Categorical):
        return Block(column, len(column.values), np.empty(0))
    if isinstance(column, Integer):
        edges = _integer_edges(column, bins, whole)
    else:
        edges = _real_edges(column, reals if column.scale == "linear" else bins, whole)
    return Block(column, len(edges) - 1, edges)


def _real_edges(column: Real, bins: int, whole: int) -> Array:
    """Return even edges on the column's scale or, where few values can be written, edges half-way between these."""
    top = float(_scaled(column, np.array([column.upper]))[0])
    (low, high), unit = _written_bounds(column), 10.0**-column.decimals
    if column.scale == "linear" and 0 < high - low < (whole - 0.5) * unit:
        tops = low - column.lower + (np.arange(round((high - low) / unit)) + 0.5) * unit
        return np.concatenate([[0.0], tops, [top]])
    # The lower bound is a cell of its own: zeros, codes for "never" and censored values pile up there.
    return np.concatenate([[0.0], np.linspace(0.0, top, bins + (column.scale == "linear"))])


def _integer_edges(column: Integer, bins: int, whole: int) -> Array:
    """Return edges half-way between integers, so that every cell holds at least one."""
    lower, upper = column.lower, column.upper
    if upper - lower < whole:
        tops = np.arange(lower, upper + 1, dtype=np.float64)
    else:
        start, end = _scaled(column, np.array([lower - 0.5, upper + 0.5], dtype=np.float64))
        inner = _unscaled(column, np.linspace(start, end, bins + 1)[1:-1])
        # The lower bound is a cell of its own, as for reals.
        tops = np.unique(np.concatenate([[lower], np.clip(np.floor(inner), lower, upper), [upper]]))
    return _scaled(column, np.concatenate([[lower - 0.5], tops + 0.5]))


def _scaled(column: Integer | Real, values: Array) -> Array:
    """Return values as distances above the lower bound, on the column's scale.

    A whole number stands for the interval of width 1 around it, so integers start half a unit lower.
    """
    half = 0.5 if isinstance(column, Integer) else 0.0
    distance = np.clip(values, column.lower - half, column.upper + half) - column.lower + half
    return np.log1p(distance) if column.scale == "log" else distance


def _unscaled(column: Integer | Real, scaled: Array) -> Array:
    half = 0.5 if isinstance(column, Integer) else 0.0
    distance = np.expm1(scaled) if column.scale == "log" else scaled
    return column.lower - half + distance


def written(column: Integer | Real, values: Array) -> Array:
    """Return values as a file holds them: whole, or with the column's decimals, and within the bounds."""
    if isinstance(column, Integer):
        return np.clip(np.rint(values), column.lower, column.upper)
    low, high = _written_bounds(column)
    return np.clip(np.round(values, column.decimals), low, high) + 0.0  # a negative zero would be written "-0"


def _written_bounds(column: Real) -> tuple[float, float]:
    """Return the least and greatest value within the bounds that the column's decimals can write."""
    places, unit = column.decimals, 10.0**-column.decimals
    low, high = round(column.lower, places), round(column.upper, places)
    low = low if low >= column.lower else round(low + unit, places)
    high = high if high <= column.upper else round(high - unit, places)
    return (low, high) if low <= high else (column.lower, column.upper)
