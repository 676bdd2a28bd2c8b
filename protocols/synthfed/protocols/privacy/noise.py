"""Exact discrete Gaussian noise from a secret key stream, vectorised.

Never uses floating point where it would change a probability, and never a public generator.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from ..keystream import KeyStream

_FRACTION_BITS: Final = 37
_BATCH: Final = 1 << 15  # small enough for the working arrays to stay in cache

Integers = npt.NDArray[np.int64]
Bits = npt.NDArray[np.bool_]


def discrete_gaussian(stream: KeyStream, count: int, scale_bits: int) -> Integers:
    """Return independent draws with P(x) proportional to exp(-x**2 / (2 * S**2)), S = 2**scale_bits.

    Rejection from a discrete Laplace proposal of scale S (Canonne, Kamath, Steinke 2020,
    arXiv 2004.00010, algorithm 3); every coin is an exact comparison of integers. A proposal y is
    kept with probability exp(-(|y| - S)**2 / (2 * S**2)).

    Args:
        stream: secret words; the draws are a function of its key alone.
        count: how many draws.
        scale_bits: logarithm of S to base 2, between 3 and 18.

    Returns:
        Integers of shape ``(count,)``.
    """
    if not 3 <= scale_bits <= (_FRACTION_BITS - 1) // 2:
        raise ValueError("scale_bits must be between 3 and 18")
    kept: list[Integers] = []
    missing = count
    while missing > 0:
        proposals = _discrete_laplace(stream, min(_BATCH, 2 * missing + 64), scale_bits)
        accepted = proposals[_keeps(stream, proposals, scale_bits)][:missing]
        kept.append(accepted)
        missing -= len(accepted)
    return np.concatenate(kept) if kept else np.empty(0, dtype=np.int64)


def _discrete_laplace(stream: KeyStream, tries: int, scale_bits: int) -> Integers:
    """Return draws with P(y) proportional to exp(-|y| / S); fewer than ``tries``, all of them exact."""
    words = stream.words(tries)
    low = (words & np.uint64(2**scale_bits - 1)).astype(np.int64)
    negative = (words >> np.uint64(63)).astype(bool)
    kept = _exp_coins(stream, low << (_FRACTION_BITS - scale_bits))
    low, negative = low[kept], negative[kept]
    magnitude = low + (_geometric(stream, len(low)) << scale_bits)
    signed = np.where(negative, -magnitude, magnitude)
    return np.asarray(signed[~(negative & (magnitude == 0))])


def _keeps(stream: KeyStream, proposals: Integers, scale_bits: int) -> Bits:
    """Return coins with probability exp(-(|y| - S)**2 / (2 * S**2)), one for each proposal."""
    distance = np.abs(proposals) - 2**scale_bits
    # In units of 2**-37 the exponent is an integer: the distance's square times 2**(36 - 2 bits).
    exponent = distance * distance << (_FRACTION_BITS - 1 - 2 * scale_bits)
    whole, fraction = exponent >> _FRACTION_BITS, exponent & (2**_FRACTION_BITS - 1)
    coins = np.ones(len(proposals), dtype=bool)
    lasting = np.flatnonzero(whole > 0)
    while len(lasting):  # exp(-whole) is a product of coins of probability exp(-1)
        heads = _exp_coins(stream, np.full(len(lasting), 2**_FRACTION_BITS, dtype=np.int64))
        coins[lasting[~heads]] = False
        lasting = lasting[heads]
        whole[lasting] -= 1
        lasting = lasting[whole[lasting] > 0]
    alive = np.flatnonzero(coins)
    coins[alive] = _exp_coins(stream, fraction[alive])
    return coins


def _geometric(stream: KeyStream, count: int) -> Integers:
    """Return draws with P(v) = (1 - 1/e) * exp(-v)."""
    values = np.zeros(count, dtype=np.int64)
    running = np.arange(count)
    while len(running):
        running = running[_exp_coins(stream, np.full(len(running), 2**_FRACTION_BITS, dtype=np.int64))]
        values[running] += 1
    return values


def _exp_coins(stream: KeyStream, exponents: Integers) -> Bits:
    """Return coins with probability exp(-x), x = exponents / 2**37 in [0, 1].

    Von Neumann's alternating series: count how many coins of probability x/1, x/2, x/3, ... come
    up in a row; the parity of the count decides. A coin x/k is the coin x and the coin 1/k.
    """
    coins = np.ones(len(exponents), dtype=bool)
    running = np.arange(len(exponents))
    turn = 1
    while len(running):
        up = _fraction_coins(stream, exponents[running])
        up[up] = _one_in(stream, turn, int(up.sum()))
        running = running[up]
        coins[running] ^= True
        turn += 1
    return coins


def _fraction_coins(stream: KeyStream, numerators: Integers) -> Bits:
    """Return coins with probability numerators / 2**37."""
    words = stream.words(len(numerators)) >> np.uint64(64 - _FRACTION_BITS)
    return np.less(words.astype(np.int64), numerators)


def _one_in(stream: KeyStream, sides: int, count: int) -> Bits:
    """Return ``count`` coins of probability 1 / sides, by rejection of the uneven last words."""
    if sides == 1:
        return np.ones(count, dtype=bool)
    even = 2**64 // sides * sides
    words = stream.words(count)
    while (uneven := np.flatnonzero(words > np.uint64(even - 1))).size:
        words = words.copy()
        words[uneven] = stream.words(len(uneven))
    coins: Bits = words % np.uint64(sides) == 0
    return coins
