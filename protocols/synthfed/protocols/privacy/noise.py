"""Discrete Gaussian noise from a secret key stream: exact, vectorised, a function of the key alone.

Never lets a float decide: floats only tell which coins are clear, integers settle the rest.
"""

import functools
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..keystream import KeyStream

_CELL_BITS: Final = 4  # a standard deviation holds 2**4 cells
_COLUMN_BITS: Final = 9  # and 2**9 cells reach to 32 standard deviations
_CHOICE_BITS: Final = 64 - _COLUMN_BITS
_COIN_BITS: Final = 49
_PRECISION: Final = 640  # bits in which tables and late decisions are computed
_MARGIN: Final = 2.0**10  # in units of 2**-49; the float exponential is off by less than 1
_BATCH: Final = 1 << 14  # small enough for the working arrays to stay in cache

Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Bits = npt.NDArray[np.bool_]


def discrete_gaussian(stream: KeyStream, count: int, scale_bits: int) -> Integers:
    """Return independent draws with P(x) proportional to exp(-x**2 / (2 * S**2)), S = 2**scale_bits.

    Rejection from a staircase that touches the density at every S / 16: the cell is chosen by Walker's
    alias method (1977, doi 10.1145/355744.355749), the place in the cell is uniform, and a draw is kept
    with probability exp(-(x**2 - edge**2) / (2 * S**2)), which is 97 % on average. A coin that the float
    exponential cannot settle beyond its error (2**-38 of all) is settled by 640-bit integers, with
    further bits of the stream where its own do not suffice.

    The law differs from the discrete Gaussian in its tail beyond 29 S and the tables' last bit: by less
    than 2**-600 per draw in total variation, so that even 1e15 draws add less than 1e-165 to delta.

    Args:
        stream: secret words; the draws are a function of its key alone.
        count: how many draws.
        scale_bits: logarithm of S to base 2, between 4 and 18.

    Returns:
        Integers of shape ``(count,)``.
    """
    if not _CELL_BITS <= scale_bits <= 18:
        raise ValueError("scale_bits must be between 4 and 18")
    kept: list[Integers] = []
    missing = count
    while missing > 0:
        draws = _draw(stream, min(_BATCH, missing + missing // 16 + 64), scale_bits)[:missing]
        kept.append(draws)
        missing -= len(draws)
    return np.concatenate(kept) if kept else np.empty(0, dtype=np.int64)


def _draw(stream: KeyStream, tries: int, scale_bits: int) -> Integers:
    """Return draws, fewer than ``tries``: of each second word one bit is the sign, 14 the place, 49 a coin."""
    first, second = stream.words(2 * tries).reshape(2, tries)
    width_bits = scale_bits - _CELL_BITS
    edge = _cells(stream, first) << width_bits
    offset = (second & np.uint64(2**width_bits - 1)).astype(np.int64)
    magnitude = edge + offset
    coins = (second >> np.uint64(63 - _COIN_BITS) & np.uint64(2**_COIN_BITS - 1)).astype(np.int64)
    kept = _exp_coins(stream, coins, offset * (magnitude + edge), 2 * scale_bits + 1)
    negative = second >= np.uint64(2**63)
    kept &= ~(negative & (magnitude == 0))  # zero has one sign
    return np.where(negative, -magnitude, magnitude)[kept]


def _cells(stream: KeyStream, words: Words) -> Integers:
    """Return cells with the staircase's probabilities: each word names a column and tosses for its two cells."""
    table = _staircase()
    columns = (words >> np.uint64(_CHOICE_BITS)).astype(np.int64)
    choices = words & np.uint64(2**_CHOICE_BITS - 1)
    tops = table.tops[columns]
    cells = np.where(choices < tops, columns, table.aliases[columns])
    for place in np.flatnonzero(choices == tops):  # 2**-55 of all: the next bits decide
        column = int(columns[place])
        if _more_bits(stream) < table.rests[column]:
            cells[place] = column
    return cells


def _exp_coins(stream: KeyStream, coins: Integers, exponents: Integers, unit_bits: int) -> Bits:
    """Return which 49-bit coins fall below exp(-x), x = exponents / 2**unit_bits in [0, 2]."""
    ahead = np.exp(exponents * -(2.0**-unit_bits)) * 2.0**_COIN_BITS - coins
    up: Bits = ahead > 0
    for place in np.flatnonzero(np.abs(ahead) <= _MARGIN):
        coin = (int(coins[place]) << _PRECISION) + _more_bits(stream)
        up[place] = coin < _exp(int(exponents[place]), unit_bits) << _COIN_BITS
    return up


def _more_bits(stream: KeyStream) -> int:
    return int.from_bytes(stream.read(_PRECISION // 8), "little")


class _Staircase(NamedTuple):
    """Walker's table: in a column, choices below ``top`` (then the bits of ``rest``) are the column's own cell."""

    tops: Words
    rests: tuple[int, ...]
    aliases: Integers


@functools.cache
def _staircase() -> _Staircase:
    """Return the table of cells with weights exp(-(cell / 16)**2 / 2), in integers that sum up exactly."""
    columns = 2**_COLUMN_BITS
    full = 2 ** (_CHOICE_BITS + _PRECISION)
    powers = [_exp(cell * cell, 2 * _CELL_BITS + 1) for cell in range(columns)]
    own = [power * columns * full // sum(powers) for power in powers]
    own[0] += columns * full - sum(own)
    aliases = list(range(columns))
    small = [cell for cell in range(columns) if own[cell] < full]
    large = [cell for cell in range(columns) if own[cell] > full]
    while small:
        short, giver = small.pop(), large[-1]
        aliases[short] = giver
        own[giver] -= full - own[short]
        if own[giver] <= full:
            large.pop()
            if own[giver] < full:
                small.append(giver)
    tops, rests = zip(*(divmod(each, 2**_PRECISION) for each in own), strict=True)
    return _Staircase(np.array(tops, dtype=np.uint64), rests, np.array(aliases, dtype=np.int64))


def _exp(numerator: int, unit_bits: int) -> int:
    """Return exp(-numerator / 2**unit_bits) in units of 2**-640, off by less than one.

    >>> _exp(0, 3) == 2**640
    True
    >>> round(_exp(8, 3) / 2**640, 6)
    0.367879
    """
    guard = 64
    halvings = max(0, numerator.bit_length() - unit_bits)  # so that the series' argument is below 1
    one = 1 << (_PRECISION + guard + 2 * halvings)
    total, term, turn = 0, one, 0
    while term:
        total += -term if turn % 2 else term
        turn += 1
        term = (term * numerator >> (unit_bits + halvings)) // turn
    for _ in range(halvings):
        total = total * total // one
    return total >> (guard + 2 * halvings)
