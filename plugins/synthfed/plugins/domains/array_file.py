"""Records of one array and labels in files of named arrays: reading them by the schema, and writing.

Never shows a value of a private file: an error names file, array and number of rows.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from synthfed.protocols.errors import ConfigError, DataError
from synthfed.protocols.schema import (
    ArrayColumn,
    Categorical,
    Column,
    Real,
    Records,
    places,
    width_of,
)

from ..api import Table
from .cells import Parsed, as_table, every_record, faults_of, parse_cells, parse_units
from .encoding import written
from .npz import ArrayFile, RawArray, Written, open_arrays, write_arrays
from .parts import Strings

_EXACT_IN_FLOAT32: Final = 2**24  # a float32 tells whole numbers up to here apart


def read_arrays(
    path: Path, columns: Sequence[Column], *, unit: str | None, records_per_unit: int, drop_invalid: bool = False
) -> Table:
    """Return the records and privacy units of an ``.npz`` file; further arrays are ignored.

    Args:
        path: the file; one array per column of the schema, named like it, one entry per record.
        columns: the schema, one array column and categorical ones.
        unit: the array that names each record's person or account; None if every record is a unit.
        records_per_unit: how many records one unit may have.
        drop_invalid: whether records that do not fit are left out, and counted; else they are an error.

    Raises:
        ConfigError: the file cannot be read.
        DataError: its content does not fit; names the array and the number of rows, never a value.
    """
    with open_arrays(path) as file:
        rows = _rows(path, file, [*(column.name for column in columns), *([unit] if unit else [])])
        parsed = [
            parse_numbers(path, column, file.read(column.name))
            if isinstance(column, ArrayColumn)
            else _parse_labels(path, column, file.read(column.name))
            for column in columns
        ]
        units = every_record(rows)
        if unit is not None:
            units = parse_units(unit, [texts_of(path, unit, file.read(unit))])
        names = file.names
    return as_table(path, parsed, units, records_per_unit, names, drop_invalid=drop_invalid)


def _rows(path: Path, file: ArrayFile, names: Sequence[str]) -> int:
    lengths = {name: file.stated(name).shape[:1] for name in names}
    other = next((name for name in names if lengths[name] != lengths[names[0]]), None)
    if other is not None:
        raise DataError(f"{path}: arrays {names[0]!r} and {other!r} are not of one length; save as many of each")
    if not lengths[names[0]] or lengths[names[0]] == (0,):
        raise DataError(f"{path}: array {names[0]!r} has no rows; give a file with records")
    return lengths[names[0]][0]


def parse_numbers(path: Path, column: ArrayColumn, array: RawArray) -> Parsed:
    """Return an array column's numbers, shape ``(rows, numbers)``, from an array of one entry per record.

    Raises:
        DataError: the entries have another shape than the schema's, or are no numbers.
    """
    what = f"array {column.name!r}"
    if array.dtype.kind not in "buif":
        raise DataError(f"{path}: {what} holds no numbers; save it as numbers")
    arranged = _arranged(array, column.shape)
    if arranged is None:
        raise DataError(
            f"{path}: {what} has records of shape {array.shape[1:]}, but the schema says {column.shape}; "
            "mend the file or the schema"
        )
    flat = arranged.reshape(len(arranged), -1)
    infinite = np.asarray(~np.isfinite(flat).all(axis=1))
    outside = np.asarray(((flat < column.lower) | (flat > column.upper)).any(axis=1) & ~infinite)
    faults = faults_of(
        [
            (infinite, "a number that is not finite; mend them"),
            (outside, "a number out of bounds; mend them, or widen the bounds in the schema"),
        ]
    )
    return Parsed(what, flat, faults)


def _arranged(array: RawArray, shape: tuple[int, ...]) -> RawArray | None:
    """Return an array with entries of a shape, one channel or lead put in or the channels put first; None if unlike."""
    own = array.shape[1:]
    if own == shape:
        return array
    if (1, *own) == shape:
        return array[:, None]
    if len(shape) == 3 and own == (*shape[1:], shape[0]):
        return np.moveaxis(array, -1, 1)
    return None


def _parse_labels(path: Path, column: Column, array: RawArray) -> Parsed:
    if not isinstance(column, Categorical):
        raise ConfigError(f"column {column.name!r} is neither an array nor categorical", where="columns")
    parsed = parse_cells(column, texts_of(path, column.name, array))
    return dataclasses.replace(parsed, what=f"array {column.name!r}")


def texts_of(path: Path, name: str, array: RawArray) -> Strings:
    """Return the labels or units that an array holds as texts; DataError where it holds something else."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind == "f":
        raise DataError(f"{path}: array {name!r} must be one whole number or text for each record; save it as such")
    if array.dtype.kind == "S":
        return [value.decode("utf-8", "replace") for value in array.tolist()]
    if array.dtype.kind == "b":
        array = array.astype(np.uint8)
    return [str(value) for value in array.tolist()]


def write_records(path: Path, columns: Sequence[Column], chunks: Iterable[Records]) -> None:
    """Write synthetic records as an ``.npz`` file with one array per column, all or nothing.

    An array column keeps its shape, in the smallest type that tells its numbers apart. Labels are
    whole numbers where all categories are, else texts; a missing one is the empty text. Memory
    holds one chunk.

    Raises:
        ConfigError: the file cannot be written.
    """
    arrays = [
        _array_writer(column, first) if isinstance(column, ArrayColumn) else _label_writer(column, first)
        for column, first in zip(columns, places(columns), strict=False)
    ]
    write_arrays(path, arrays, chunks)


def _array_writer(column: ArrayColumn, first: int) -> Written:
    real = Real(name=column.name, lower=column.lower, upper=column.upper, decimals=column.decimals)
    dtype, last = _number_type(column), first + width_of(column)

    def values(records: Records) -> RawArray:
        numbers = written(real, records[:, first:last])
        if dtype == np.float32:  # rounding to it may step over a bound
            numbers = np.clip(numbers.astype(dtype), *_inside(column.lower, column.upper))
        return numbers.reshape(-1, *column.shape)

    return Written(column.name, column.shape, dtype, values)


def _number_type(column: ArrayColumn) -> np.dtype[Any]:
    if column.decimals == 0 and math.ceil(column.lower) <= math.floor(column.upper):
        types = (np.dtype(kind) for kind in (np.uint8, np.int16, np.int32, np.int64))
        return next(kind for kind in types if _holds(kind, column))
    most = max(abs(column.lower), abs(column.upper)) * 10.0**column.decimals
    return np.dtype(np.float32 if most < _EXACT_IN_FLOAT32 else np.float64)


def _holds(kind: np.dtype[Any], column: ArrayColumn) -> bool:
    return bool(np.iinfo(kind).min <= column.lower and column.upper <= np.iinfo(kind).max)


def _inside(lower: float, upper: float) -> tuple[np.float32, np.float32]:
    """Return the least and greatest float32 between two bounds."""
    low, high = np.float32(lower), np.float32(upper)
    low = low if low >= lower else np.nextafter(low, np.float32(np.inf))
    return low, high if high <= upper else np.nextafter(high, np.float32(-np.inf))


def _label_writer(column: Column, first: int) -> Written:
    values = column.values if isinstance(column, Categorical) else ()
    is_whole = not column.missing and all(_is_whole(value) for value in values)
    names = np.array([int(value) for value in values]) if is_whole else np.array([*values, ""])

    def labels(records: Records) -> RawArray:
        codes = records[:, first]
        return names[np.where(np.isnan(codes), len(values), codes).astype(np.int64)]

    return Written(column.name, (), names.dtype, labels)


def _is_whole(text: str) -> bool:
    """Return whether a text is a whole number in its one plain spelling, small enough for 64 bits."""
    return text.isascii() and text.removeprefix("-").isdecimal() and str(int(text)) == text and len(text) < 19
