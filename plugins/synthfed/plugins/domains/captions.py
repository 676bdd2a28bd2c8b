"""Captions for the rows of a picture: the label that all records of a row share.

Never speaks of a real record: pictures are of synthetic ones.
"""

from collections.abc import Sequence

import numpy as np

from synthfed.protocols.schema import Categorical, Column, Records, places


def captions(columns: Sequence[Column], records: Records, across: int) -> list[str]:
    """Return for each row of ``across`` records the categories that all of them have, empty where none is shared.

    >>> kind = Categorical(name="kind", values=("cat", "dog"))
    >>> captions([kind], np.array([[0.0], [0.0], [0.0], [1.0]]), 2)
    ['cat', '']
    """
    labels = [
        (column, first)
        for column, first in zip(columns, places(columns), strict=False)
        if isinstance(column, Categorical)
    ]
    rows = [records[start : start + across] for start in range(0, len(records), across)]
    return [" ".join(filter(None, (_shared(column, row[:, first]) for column, first in labels))) for row in rows]


def _shared(column: Categorical, values: Records) -> str:
    code = values[0]
    return "" if np.isnan(code) or np.any(values != code) else column.values[int(code)]
