"""Secret coins: which units take part in a round, which record stands for a unit and where, what its loss may toss.

Never reveals an index or a count outside the agent, and never uses a public generator.
"""

import numpy as np
import numpy.typing as npt

from ..keystream import KeyStream

_WORDS = 2**64
_NUMBER_BITS = 52  # with one more, the largest would round to 1
_AT_ONCE = 2**15  # stays in a cache

Indices = npt.NDArray[np.int64]


def poisson_sample(stream: KeyStream, units: int, sample_rate: float) -> Indices:
    """Return the units whose own coin came up, in increasing order; at rate 1 all of them.

    A unit is taken when a uniform 64-bit word is below ``floor(sample_rate * 2**64)``, so the true
    rate is at most ``sample_rate`` and differs from it by less than 2**-64.
    """
    if sample_rate >= 1:
        return np.arange(units, dtype=np.int64)
    threshold = np.uint64(int(sample_rate * _WORDS))  # exact: scaling a double by a power of two
    return np.flatnonzero(stream.words(units) < threshold)


def uniform_below(stream: KeyStream, bounds: npt.NDArray[np.int64]) -> Indices:
    """Return one exactly uniform integer in ``[0, bound)`` for each bound, by rejection.

    Args:
        stream: secret words.
        bounds: at least 1 each, shape ``(n,)``.
    """
    limits = bounds.astype(np.uint64)
    # Words at or above the largest multiple of the bound would favour small results.
    spare = (np.uint64(_WORDS - 1) % limits + np.uint64(1)) % limits
    drawn = np.empty(len(limits), dtype=np.uint64)
    open_slots = np.arange(len(limits))
    while len(open_slots):
        words = stream.words(len(open_slots))
        good = words <= np.uint64(_WORDS - 1) - spare[open_slots]
        drawn[open_slots[good]] = words[good] % limits[open_slots[good]]
        open_slots = open_slots[~good]
    return drawn.astype(np.int64)


def uniform_numbers(stream: KeyStream, rows: int, columns: int) -> npt.NDArray[np.float64]:
    """Return uniform numbers strictly between 0 and 1, odd multiples of 2**-53, shape ``(rows, columns)``."""
    words = stream.words(rows * columns)
    numbers = words.view(np.float64)  # in the words' own place: a round's coins may be a hundred megabytes
    for start in range(0, len(words), _AT_ONCE):
        place = slice(start, start + _AT_ONCE)
        part = (words[place] >> np.uint64(64 - _NUMBER_BITS)).astype(np.float64)
        part += 0.5
        np.multiply(part, 2.0**-_NUMBER_BITS, out=numbers[place])
    return numbers.reshape(rows, columns)


def secret_subset(stream: KeyStream, chosen: Indices, slots: int) -> Indices:
    """Return at most ``slots`` of the chosen units; where there are more, a uniform secret choice."""
    if len(chosen) <= slots:
        return chosen
    order = np.argsort(stream.words(len(chosen)), kind="stable")
    return np.sort(chosen[order[:slots]])


def random_places(stream: KeyStream, count: int, slots: int) -> Indices:
    """Return a slot of its own for each of ``count`` units, in any order and all choices alike, shape ``(count,)``.

    A library may round a row by its place in a batch. Were units put side by side, one more would move all that
    follow, and with them their roundings, which weights can be chosen to make large. With random places the others
    may stay where they are: what is left without the last unit's place has the law of a draw for one unit fewer.
    """
    return np.argsort(stream.words(slots), kind="stable")[:count]
