"""A made-up table of any size whose columns depend on each other, the same for the same seed.

Never holds a real value.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from synthfed.protocols.schema import Categorical, Column, Integer, Real, Records

KINDS_OF_ROWS: Final = 6  # on which every column depends, so that every pair of columns does
HIGHEST: Final = 40  # of a whole number
DECIMALS: Final = 3


def made_up_columns(number: int) -> tuple[Column, ...]:
    """Return a schema whose columns are in turn categories (2 to 12 of them), whole numbers and reals."""
    columns: list[Column] = []
    for i in range(number):
        if i % 3 == 0:
            values = tuple(f"v{value}" for value in range(2 + i // 3 % 11))
            columns.append(Categorical(name=f"c{i}", values=values))
        elif i % 3 == 1:
            columns.append(Integer(name=f"c{i}", lower=0, upper=HIGHEST))
        else:
            columns.append(Real(name=f"c{i}", lower=0.0, upper=1.0, decimals=DECIMALS))
    return tuple(columns)


def made_up_rows(columns: Sequence[Column], rows: int, seed: int) -> Records:
    """Return records of a mixture, shape ``(rows, columns)``: given its kind, a row's columns are independent."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(KINDS_OF_ROWS, size=rows)
    records = np.empty((rows, len(columns)), order="F")
    for i, column in enumerate(columns):
        if isinstance(column, Categorical):
            chances = rng.dirichlet(np.ones(len(column.values)), KINDS_OF_ROWS).cumsum(1)
            codes = (rng.random(rows)[:, None] > chances[kind]).sum(1)
            records[:, i] = np.minimum(codes, len(column.values) - 1)
        else:
            place = rng.uniform(0.2, 0.8, KINDS_OF_ROWS)[kind] + 0.15 * rng.standard_normal(rows)
            place = np.clip(place, 0.0, 1.0)
            whole = isinstance(column, Integer)
            records[:, i] = np.rint(HIGHEST * place) if whole else np.round(place, DECIMALS)
    return records
