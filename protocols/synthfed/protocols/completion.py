"""From the columns that a model sees to whole records that keep every constraint, and back.

Never leaves a record as it is that breaks a constraint, and never changes one in a column that no constraint names.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from .constraints import (
    Constraint,
    Determines,
    Order,
    SumOf,
    Value,
    answers_of,
    derived,
    free_columns,
    in_turn,
    orders_of,
    sums_of,
)
from .ranges import decimals_of, in_order, ranges, span
from .schema import Categorical, Column, Integer, Real, Records, places, width_of

Units = npt.NDArray[np.float64]
"""Whole numbers of a column's last decimal place, exact up to 2**50; NaN where missing."""
Rows = npt.NDArray[np.bool_]


class Completion:
    """A study's constraints as maps between free records, which a model sees, and whole ones."""

    def __init__(self, columns: Sequence[Column], constraints: Sequence[Constraint]) -> None:
        """Lay out the columns; the constraints are valid ones for them."""
        self._columns = {column.name: column for column in columns}
        self._numbers = {column.name: column for column in columns if isinstance(column, Integer | Real)}
        first = places(columns)
        self._place = dict(zip(self._columns, first, strict=False))
        self._width = first[-1]
        self._constraints = tuple(constraints)
        self._deriving: Final = in_turn(constraints)
        self._sums, self._orders = sums_of(constraints), orders_of(constraints)
        self._ranges = ranges(self._columns, self._sums, self._orders)
        free = free_columns(columns, constraints)
        self._free = np.concatenate([self._place[each.name] + np.arange(width_of(each)) for each in free])
        bound = {each.determinant for each in self._deriving if isinstance(each, Determines)} | self._ranges.keys()
        self._answers = {  # laid out once: a table may have thousands of values, and be asked for every batch
            each.determined: _coded(
                self._columns[each.determined],
                [*answers_of(each, self._columns[each.determinant]), each.missing],
            )
            for each in self._deriving
            if isinstance(each, Determines)
        }
        self._written = [each.name for each in free if each.name in bound and isinstance(each, Integer | Real)]
        self._parts = dict(self._sums)

    @property
    def movable(self) -> frozenset[str]:
        """The columns whose values a repair may change: those of orders and sums."""
        return frozenset(self._ranges)

    def reduce(self, records: Records) -> Records:
        """Return the free columns of whole records, shape ``(rows, free width)``."""
        return records[:, self._free]

    def complete(self, free: Records) -> tuple[Records, Rows]:
        """Return whole records, shape ``(rows, width)``, and for each whether it keeps all constraints.

        Numbers under a constraint are rounded as they will be written: what is then derived from them fits the file.
        """
        records = np.full((len(free), self._width), np.nan)
        records[:, self._free] = free
        for name in self._written:
            self._put(records, name, np.clip(self._units(records, name), *span(self._numbers[name])))
        self._derive(records)
        kept = np.ones(len(records), dtype=np.bool_)
        for name in self._parts:
            low, high = span(self._numbers[name])
            units = self._units(records, name)
            kept &= ~((units < low) | (units > high))
        for names, step in self._orders:
            kept &= self._in_order(records, names, step)
        return records, kept

    def repair(self, records: Records) -> Records:
        """Return records as `complete` gave them, those that break a constraint changed until they keep all.

        Numbers out of order change places and are then moved up to the one before them. Where a total is out of
        bounds, its parts share the difference by how much room each has.
        """
        records = records.copy()
        wrong = np.zeros(len(records), dtype=np.bool_)
        for names, step in self._orders:
            wrong |= ~self._in_order(records, names, step)
        mended = records[wrong]
        for names, _ in self._orders:
            self._sort(mended, names)
        self._lift(mended)
        records[wrong] = mended
        for total, parts in self._sums:
            units = np.sum([self._units(records, part) for part in parts], axis=0)
            self._move(records, total, np.clip(units, *self._ranges[total]) - units)
            self._derive(records)
        self._derive(records)
        return records

    def broken(self, records: Records) -> tuple[int, ...]:
        """Return how many whole records break each of the constraints, in the order of the terms."""
        return tuple(int(np.sum(~self._keeps(records, each))) for each in self._constraints)

    def _keeps(self, records: Records, each: Constraint) -> Rows:
        if isinstance(each, Order):
            return self._in_order(records, each.columns, int(each.strict))
        name = derived(each)
        found, right = self._units(records, name), self._rounded(name, self._derived(records, each))
        return np.asarray((found == right) | (np.isnan(found) & np.isnan(right)))

    def _derive(self, records: Records) -> None:
        for each in self._deriving:
            records[:, self._place[derived(each)]] = self._derived(records, each)

    def _derived(self, records: Records, each: SumOf | Determines) -> Records:
        """Return the values of the column that a constraint derives, shape ``(rows,)``."""
        if isinstance(each, SumOf):
            units = np.sum([self._units(records, part) for part in each.parts], axis=0)
            return self._values(each.total, units)
        found, answers = self._units(records, each.determinant), self._answers[each.determined]
        low = self._numbers[each.determinant].lower if each.determinant in self._numbers else 0
        index = np.clip(np.where(np.isnan(found), 0, found - low), 0, len(answers) - 2).astype(np.int64)
        return answers[np.where(np.isnan(found), len(answers) - 1, index)]  # the last one is that for missing

    def _in_order(self, records: Records, names: Sequence[str], step: int) -> Rows:
        block = self._several(records, names)
        greatest, kept = np.full(len(block), -np.inf), np.ones(len(block), dtype=np.bool_)
        for units in block.T:
            kept &= ~(units < greatest + step)
            greatest = np.fmax(greatest, units)
        return kept

    def _sort(self, records: Records, names: Sequence[str]) -> None:
        """Put the present values of several columns in order, in place; what is missing stays where it is."""
        block = self._several(records, names)
        present_first = np.argsort(np.isnan(block), axis=1, kind="stable")
        np.put_along_axis(block, present_first, np.sort(block, axis=1), axis=1)
        for name, units in zip(names, block.T, strict=True):
            self._put(records, name, units)

    def _lift(self, records: Records) -> None:
        """Move every number in an order up to those before it, within its range, in place.

        A range ends below those of the columns behind, so that there is always room for these.
        """
        last = [np.full(len(records), -np.inf) for _ in self._orders]
        for name in in_order(self._orders):
            mine = [i for i, (names, _) in enumerate(self._orders) if name in names]
            least = np.max([last[i] + self._orders[i][1] for i in mine], axis=0)
            units = np.clip(np.maximum(self._units(records, name), least), *self._ranges[name])
            self._put(records, name, units)
            for i in mine:
                last[i] = np.fmax(last[i], units)

    def _move(self, records: Records, name: str, change: Units) -> None:
        """Add ``change`` units to a column; a total's parts share it by their room, whole units each."""
        change = np.nan_to_num(change)
        if name not in self._parts:
            self._put(records, name, self._units(records, name) + change)
            return
        parts = self._parts[name]
        rooms = np.stack([self._room(records, part, change > 0) for part in parts])
        all_room = np.maximum(rooms.sum(axis=0), 1.0)
        size = np.abs(change)
        left, shares = size.copy(), np.zeros_like(rooms)
        for share, room in zip(shares, rooms, strict=True):
            share += np.minimum(np.floor(size * (room / all_room)), np.minimum(left, room))
            left -= share
        for share, room in zip(shares, rooms, strict=True):  # what rounding left over
            more = np.minimum(left, room - share)
            share += more
            left -= more
        for part, share in zip(parts, shares, strict=True):
            self._move(records, part, np.sign(change) * share)

    def _room(self, records: Records, name: str, is_up: Rows) -> Units:
        """Return how many units a column can go up, or down, within its range; 0 where missing."""
        low, high = self._ranges[name]
        units = self._units(records, name)
        return np.nan_to_num(np.where(is_up, high - units, units - low))

    def _units(self, records: Records, name: str) -> Units:
        return self._rounded(name, records[:, self._place[name]])

    def _rounded(self, name: str, values: Records) -> Units:
        return np.asarray(np.rint(values * self._scale(name)))

    def _values(self, name: str, units: Units) -> Records:
        return np.asarray(units / self._scale(name) + 0.0)  # a negative zero would be written "-0"

    def _scale(self, name: str) -> float:
        return 10.0 ** decimals_of(self._numbers[name]) if name in self._numbers else 1.0

    def _put(self, records: Records, name: str, units: Units) -> None:
        records[:, self._place[name]] = self._values(name, units)

    def _several(self, records: Records, names: Sequence[str]) -> Units:
        return np.stack([self._units(records, name) for name in names], axis=1)


def _coded(column: Column, values: Sequence[Value | None]) -> Units:
    """Return a table's answers as records hold them: categories' indices, numbers, NaN for None."""
    codes = {value: code for code, value in enumerate(column.values)} if isinstance(column, Categorical) else {}
    return np.array([np.nan if value is None else float(codes.get(str(value), value)) for value in values])
