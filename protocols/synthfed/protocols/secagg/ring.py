"""Integers modulo 2**32 or 2**64: how a noised sum becomes words, and words a sum.

Never rounds a value that would not fit: the plan chooses a ring in which nothing wraps.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..errors import RemoteProtocolError
from ..wire import Bytes

Words = npt.NDArray[Any]
"""Unsigned little-endian words of 32 or 64 bits."""

_UNSIGNED: Final[Mapping[int, npt.DTypeLike]] = {32: "<u4", 64: "<u8"}
_PART: Final = 2**16
_SIGNED: Final[Mapping[int, npt.DTypeLike]] = {32: "<i4", 64: "<i8"}


def to_grid(total: npt.NDArray[np.float64], step: float, box: float) -> npt.NDArray[np.int64]:
    """Return the clipped sum in whole grid steps, each in [-box, box]; not finite raises ValueError.

    Both clamping and rounding are applied per coordinate after the units' sum; the first never
    enlarges a difference, the second by at most one step (part of the accounted sensitivity).
    """
    if not np.isfinite(total).all():
        raise ValueError("a sum to encode is not finite")
    steps = total / step
    np.clip(steps, -box, box, out=steps)
    return np.rint(steps, out=steps).astype(np.int64)


def zeros(count: int, bits: int) -> Words:
    """Return ``count`` words from which a sum starts."""
    return np.zeros(count, dtype=_UNSIGNED[bits])


def to_words(values: npt.NDArray[np.int64], bits: int) -> Words:
    """Return integers modulo ``2**bits``."""
    words: Words = values.astype(_UNSIGNED[bits])
    return words


def centred(words: Words) -> npt.NDArray[np.int64]:
    """Return words as integers in ``[-2**(b-1), 2**(b-1))``, b the word's width."""
    signed: npt.NDArray[np.int64] = words.view(_SIGNED[8 * words.itemsize]).astype(np.int64)
    return signed


def norm(values: npt.NDArray[np.int64]) -> float:
    """Return the Euclidean norm, in parts, so that no copy of a whole vector is made.

    >>> norm(np.array([3, -4]))
    5.0
    """
    parts = (values[start : start + _PART] for start in range(0, len(values), _PART))
    return math.hypot(*(float(np.linalg.norm(part.astype(np.float64))) for part in parts))


def from_bytes(data: Bytes, count: int, bits: int, *, peer: str) -> Words:
    """Return ``count`` little-endian words, without a copy.

    Raises:
        RemoteProtocolError: the length is not that of ``count`` words.
    """
    if len(data) != count * bits // 8:
        raise RemoteProtocolError("a masked sum has the wrong length", peer=peer)
    return np.frombuffer(data, dtype=_UNSIGNED[bits])


def add_in_place(total: Words, words: Words) -> None:
    """Add modulo the ring; unsigned numpy arithmetic wraps, which is what is wanted here."""
    np.add(total, words, out=total)
