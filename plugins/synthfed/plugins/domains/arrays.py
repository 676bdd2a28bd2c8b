"""Records of one array and a few categories (an image and its label) as numbers a network takes, and back.

Never looks at a record to choose a scale: it follows from the signed bounds alone.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import ArrayColumn, Categorical, Column, Records, places

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


class ArrayEncoder:
    """Turns records into scaled numbers followed by one-hot labels, row by row, and back.

    Attributes:
        array: the one array column.
        labels: the categorical columns, in the order of the schema.
        numbers: how many numbers the array has.
        sizes: cells of each label; the last one of a column that may be missing is for missing.
        width: of an encoded record, ``numbers + sum(sizes)``.
    """

    def __init__(self, columns: Sequence[Column], who: str) -> None:
        """Take a schema of exactly one array column and any categorical ones.

        Raises:
            ConfigError: the schema is another, which ``who`` cannot take.
        """
        arrays = [column for column in columns if isinstance(column, ArrayColumn)]
        labels = [column for column in columns if isinstance(column, Categorical)]
        if len(arrays) != 1 or len(labels) + 1 != len(columns):
            raise ConfigError(
                f"{who} is for records of one array and categories; declare exactly one array column, and the others "
                "as categorical",
                where="columns",
            )
        self.array, self.labels = arrays[0], tuple(labels)
        self.numbers = math.prod(self.array.shape)
        self.sizes = tuple(len(label.values) + int(label.missing) for label in self.labels)
        self.width = self.numbers + sum(self.sizes)
        first = places(columns)
        self._array_place = first[[column.kind for column in columns].index("array")]
        self._label_places = [first[i] for i, column in enumerate(columns) if column.kind == "categorical"]

    def encode(self, records: Records) -> Array:
        """Return records as numbers in [-1, 1], then 0 and 1 for each label, shape ``(rows, width)``."""
        lower, upper = self.array.lower, self.array.upper
        raw = records[:, self._array_place : self._array_place + self.numbers]
        scaled = np.clip(np.nan_to_num(raw, nan=lower), lower, upper)
        encoded = np.zeros((len(records), self.width))
        encoded[:, : self.numbers] = (scaled - lower) / (upper - lower) * 2 - 1
        start = self.numbers
        for place, label, size in zip(self._label_places, self.labels, self.sizes, strict=True):
            values = records[:, place]
            known = np.clip(np.nan_to_num(values), 0, len(label.values) - 1)
            codes = np.where(np.isnan(values) & label.missing, size - 1, known).astype(np.int64)
            np.put_along_axis(encoded, start + codes[:, None], 1.0, axis=1)
            start += size
        return encoded

    def decode(self, numbers: npt.NDArray[np.floating], codes: Codes) -> Records:
        """Return records within the bounds, written with the column's decimals.

        Args:
            numbers: of the array in [-1, 1], shape ``(rows, numbers)``; those outside are clipped.
            codes: the cell of each label, shape ``(rows, labels)``.
        """
        lower, upper = self.array.lower, self.array.upper
        records = np.empty((len(numbers), self.numbers + len(self.labels)))
        scaled = lower + (np.clip(numbers.astype(np.float64), -1, 1) + 1) / 2 * (upper - lower)
        rounded = np.clip(np.round(scaled, self.array.decimals), lower, upper) + 0.0
        records[:, self._array_place : self._array_place + self.numbers] = rounded
        for i, (place, label) in enumerate(zip(self._label_places, self.labels, strict=True)):
            missing = codes[:, i] >= len(label.values)
            records[:, place] = np.where(missing, np.nan, codes[:, i])
        return records
