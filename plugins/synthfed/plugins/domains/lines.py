"""The lines of a CSV file: a table's header and its rows as bytes, thousands of rows at a time.

Never leaves out or reorders a row, and never writes a number outside its column's bounds.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from synthfed.protocols.schema import Categorical, Integer, Real, Records, Scalar

from .encoding import written

Texts = npt.NDArray[np.uint8]
"""One column's texts in UTF-8, shape ``(rows, bytes)``; where a text has no byte there is a PAD."""

PAD: Final = 0xFF  # no byte of any text in UTF-8
BATCH: Final = 8192  # rows at a time, so that what is made of them stays in the processor's cache
_MOST_UNITS: Final = 2**50  # a number of at most so many units of its last decimal shows them exactly


def csv_bytes(columns: Sequence[Scalar], chunks: Iterable[Records]) -> Iterator[bytes]:
    r"""Yield the bytes of a CSV file: a header, then the rows of every chunk of records.

    A value is written as the schema types it: whole, or with the column's decimals, and within the
    bounds; a missing one is an empty cell. No more than one chunk is held at a time.

    >>> columns = [Categorical(name="ill", values=("no", "yes")), Integer(name="age", lower=0, upper=99)]
    >>> b"".join(csv_bytes(columns, [np.array([[1.0, 42.0]]), np.array([[0.0, np.nan]])]))
    b'ill,age\nyes,42\nno,\n'
    """
    yield b",".join(_quoted(column.name) for column in columns) + b"\n"
    writers = [_writer(column) for column in columns]
    for chunk in chunks:
        for first in range(0, len(chunk), BATCH):
            rows = chunk[first : first + BATCH]
            texts: list[Texts] = []
            for i, write in enumerate(writers):
                texts += [write(rows[:, i]), np.full((len(rows), 1), ord(","), dtype=np.uint8)]
            texts[-1][:] = ord("\n")
            yield np.concatenate(texts, axis=1).tobytes().translate(None, bytes([PAD]))


def _writer(column: Scalar) -> Callable[[Records], Texts]:
    """Return the function from a column's values to their texts."""
    if isinstance(column, Categorical):
        return partial(_categories, _padded([*map(_quoted, column.values), b""]))
    return partial(_numbers, column)


def _categories(texts: Texts, values: Records) -> Texts:
    """Return the texts of categories; ``texts`` are those of all, last that of a missing value."""
    return texts[np.where(np.isnan(values), len(texts) - 1, values).astype(np.int64)]


def _numbers(column: Integer | Real, values: Records) -> Texts:
    missing = np.isnan(values)
    decimals = column.decimals if isinstance(column, Real) else 0
    known = written(column, np.where(missing, column.lower, values)) + 0.0  # a negative zero would get a sign
    units = np.rint(known * 10.0**decimals)
    if np.abs(units).max() < _MOST_UNITS and np.array_equal(units / 10.0**decimals, known):
        texts = _digits(units.astype(np.int64), decimals)
    else:  # huge numbers, or bounds closer to each other than the decimals can tell
        texts = _padded([b"%.*f" % (decimals, value) for value in known.tolist()])
    texts[missing] = PAD
    return texts


def _digits(units: npt.NDArray[np.int64], decimals: int) -> Texts:
    """Return numbers as texts, each given in units of its last decimal."""
    rest = np.abs(units)
    places = max(len(str(rest.max())), decimals + 1)
    backwards = []
    for place in range(places):
        if place == decimals > 0:
            backwards.append(np.full(len(units), ord("."), dtype=np.uint8))
        tens = rest // 10
        digit = (rest - 10 * tens + ord("0")).astype(np.uint8)
        backwards.append(digit if place <= decimals else np.where(rest > 0, digit, np.uint8(PAD)))
        rest = tens
    backwards.append(np.where(units < 0, np.uint8(ord("-")), np.uint8(PAD)))
    return np.stack(backwards[::-1], axis=1)


def _padded(texts: Sequence[bytes]) -> Texts:
    """Return texts of unequal lengths as one array."""
    longest = max(map(len, texts))
    return np.array([list(text.ljust(longest, bytes([PAD]))) for text in texts], dtype=np.uint8)


def _quoted(text: str) -> bytes:
    """Return a text as a CSV cell, in quotes only where the format needs them."""
    plain = not any(mark in text for mark in ',"\r\n')
    return (text if plain else '"' + text.replace('"', '""') + '"').encode()
