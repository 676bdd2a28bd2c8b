"""Which numbers a column can hold if sums and orders are to hold as well, in units of its last decimal place.

Never rounds: all of it is arithmetic of whole numbers.
"""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from graphlib import TopologicalSorter
from itertools import pairwise
from typing import Final

from .schema import Column, Integer, Real

MOST_UNITS: Final = 2**50  # a float64 of so many units still rounds back to them after two roundings

Range = tuple[int, int]
"""The least and the greatest number, both included; empty where the first is above the second."""
Sums = Sequence[tuple[str, tuple[str, ...]]]
"""Totals with their parts, a total of totals after these; each column is part of one sum at most."""
Orders = Sequence[tuple[tuple[str, ...], int]]
"""Columns from the least to the greatest, and the least distance of two of them: 0, or 1 for strict orders."""


def decimals_of(column: Integer | Real) -> int:
    """Return with how many decimal places a column is written."""
    return column.decimals if isinstance(column, Real) else 0


def span(column: Integer | Real) -> Range:
    """Return what can be written within a column's bounds, in units of its last place.

    >>> span(Real(name="litres", lower=0.25, upper=2, decimals=1))
    (3, 20)
    """
    if isinstance(column, Integer):
        return column.lower, column.upper
    lower, upper = (Decimal(repr(bound)).scaleb(column.decimals) for bound in (column.lower, column.upper))
    return math.ceil(lower), math.floor(upper)


def ranges(columns: Mapping[str, Column], sums: Sums, orders: Orders) -> dict[str, Range]:
    """Return the range of every column in a sum or an order; every number in it is part of a whole solution.

    The total of parts takes every whole number between the sums of their ends. In an order, the least number
    follows from the columns before, the greatest from those behind (Cormen et al., Introduction to Algorithms,
    systems of difference constraints, for a graph without cycles).
    """
    named = [(total, *parts) for total, parts in sums] + [names for names, _ in orders]
    spans = {name: span(column) for name, column in columns.items() if isinstance(column, Integer | Real)}
    found = {name: spans[name] for names in named for name in names}
    for total, parts in sums:
        low, high = (sum(found[part][end] for part in parts) for end in (0, 1))
        found[total] = max(found[total][0], low), min(found[total][1], high)
    before, behind = neighbours(orders), neighbours([(names[::-1], step) for names, step in orders])
    for name in in_order(orders):
        low = max([found[name][0], *(found[other][0] + step for other, step in before.get(name, []))])
        found[name] = low, found[name][1]
    for name in reversed(in_order(orders)):
        high = min([found[name][1], *(found[other][1] - step for other, step in behind.get(name, []))])
        found[name] = found[name][0], high
    return found


def empty_range(found: Mapping[str, Range]) -> str | None:
    """Return a column that cannot hold anything, if there is one."""
    return next((name for name, (low, high) in found.items() if low > high), None)


def in_order(orders: Orders) -> tuple[str, ...]:
    """Return the columns of all orders, each after those that are before it in one of them."""
    before = {name: [other for other, _ in others] for name, others in neighbours(orders).items()}
    return tuple(TopologicalSorter(before).static_order())


def neighbours(orders: Orders) -> dict[str, list[tuple[str, int]]]:
    """Return for each column those directly before it, with the least distance to them."""
    found: dict[str, list[tuple[str, int]]] = {}
    for names, step in orders:
        for first, second in pairwise(names):
            found.setdefault(second, []).append((first, step))
    return found
