"""Drafting a schema of one array column and labels from a public file, for the study's author to correct.

Never meant for private records: bounds and categories that it proposes are those of the file.
"""

import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

import numpy as np

from synthfed.protocols.errors import ConfigError, DataError
from synthfed.protocols.schema import MAX_CATEGORIES, ArrayColumn, Categorical, Column

from .array_file import texts_of
from .draft import FEW, MAX_DECIMALS, check_dropped, outward
from .npz import ArrayFile, RawArray, Stated, open_arrays
from .parts import Strings

Arrange = Callable[[tuple[int, ...]], tuple[int, ...] | None]
"""From the shape of an array's entries to the schema's shape of them; None if they are of another kind."""

_LEVELS: Final = 4096  # that the drafted decimals tell apart
_BYTE: Final = 255


def draft_arrays(path: Path, kind: str, arrange: Arrange, *, exclude: Collection[str]) -> tuple[Column, ...]:
    """Return an array column and categorical ones for the arrays of a file but those in ``exclude``.

    Args:
        path: a public ``.npz`` file.
        kind: what an entry of the array column is, in the plural, for errors.
        arrange: tells the array column by the shape of its entries, and gives the schema's shape.
        exclude: arrays to leave out.

    Raises:
        ConfigError: naming an array that cannot be learnt, or saying that there is not one of that kind.
    """
    with open_arrays(path) as file:
        check_dropped(path, file.names, exclude)
        stated = [file.stated(name) for name in file.names if name not in exclude]
        found = [each for each in stated if not _is_flat(each) and arrange(each.shape[1:]) is not None]
        if len(found) != 1:
            names = " and ".join(repr(each.name) for each in found)
            what = f"has more than one array of {kind} ({names}); drop all but one with `--drop`"
            raise ConfigError(what if found else f"has no array of {kind}, one for each record", where=str(path))
        return tuple(_draft(path, file, each, found[0], arrange) for each in stated)


def _is_flat(stated: Stated) -> bool:
    return len(stated.shape) < 2 or stated.shape[1:] == (1,)


def _draft(path: Path, file: ArrayFile, stated: Stated, main: Stated, arrange: Arrange) -> Column:
    if stated == main:
        shape = arrange(stated.shape[1:]) or ()
        return draft_numbers(path, stated.name, shape, file.read(stated.name))
    if not _is_flat(stated) or stated.shape[:1] != main.shape[:1]:
        raise ConfigError(
            f"array {stated.name!r} is not one value for each record; drop it with `--drop {stated.name}`",
            where=str(path),
        )
    try:
        return draft_labels(path, stated.name, texts_of(path, stated.name, file.read(stated.name)))
    except DataError as error:
        raise ConfigError(f"{error}, or drop it with `--drop {stated.name}`") from None


def draft_numbers(path: Path, name: str, shape: tuple[int, ...], array: RawArray) -> ArrayColumn:
    """Return a column with bounds rounded outward and decimals that tell some thousand levels apart.

    Raises:
        ConfigError: there is no number, one that is not finite, or one number only.
    """
    if array.size == 0 or array.dtype.kind not in "buif" or not np.isfinite(array).all():
        raise ConfigError(f"array {name!r} must hold finite numbers, at least one", where=str(path))
    low, high = float(array.min()), float(array.max())
    lower, upper = outward(low, -1), outward(high, 1)
    if array.dtype == np.uint8 and high > _BYTE / 2:
        lower, upper = 0.0, float(_BYTE)
    if lower == upper:
        raise ConfigError(f"array {name!r} holds one number only; drop it with `--drop {name}`", where=str(path))
    decimals = min(MAX_DECIMALS, max(0, math.ceil(math.log10(_LEVELS / (upper - lower)))))
    is_whole = array.dtype.kind in "bui" or bool(np.all(array == np.rint(array)))
    return ArrayColumn(name=name, shape=shape, lower=min(lower, 0.0) if low >= 0 else lower, upper=upper,
                       decimals=0 if is_whole else decimals)  # fmt: skip


def draft_labels(path: Path, name: str, texts: Strings) -> Categorical:
    """Return a categorical column of the texts, whole numbers in their order; an empty text is missing.

    Raises:
        ConfigError: there are too many different texts, or none.
    """
    known = [text for text in texts if text != ""]
    distinct = set(known)
    if not known or len(distinct) > MAX_CATEGORIES or (len(distinct) > FEW and len(distinct) > len(known) / 2):
        raise ConfigError(
            f"{name!r} has {len(distinct)} different values in {len(texts)} rows, which is no label; "
            f"drop it with `--drop {name}`",
            where=str(path),
        )
    return Categorical(name=name, values=tuple(sorted(distinct, key=_order)), missing=len(known) < len(texts))


def _order(text: str) -> tuple[bool, int, str]:
    is_number = text.isascii() and text.removeprefix("-").isdecimal()
    return (not is_number, int(text) if is_number else 0, text)
