"""Median and trimmed mean of the sites' vectors: statistics that a few made-up vectors cannot move far.

Never runs under masks: it needs every site's own noised vector, so the study's mode must be `local`.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt

from ..study import Combination

_NORMAL: Final = NormalDist()


def combine(parts: Sequence[npt.NDArray[np.int64]], combination: Combination, tolerated: int) -> npt.NDArray[np.int64]:
    """Return the sites' vectors as one, per coordinate, on the scale of their sum and rounded to whole grid steps.

    Args:
        parts: one vector per site, each of shape ``(dim,)``.
        combination: ``median``, ``trimmed-mean``, or ``sum``.
        tolerated: how many values the trimmed mean cuts at either end; fewer than half of the sites.

    >>> parts = [np.array([value]) for value in (1, 2, 3, 4, 1000)]
    >>> int(combine(parts, "median", 1)[0]), int(combine(parts, "trimmed-mean", 1)[0])
    (15, 15)
    """
    stacked = np.stack(parts)
    if combination == "sum":
        return np.asarray(stacked.sum(axis=0), dtype=np.int64)
    if combination == "median":
        centre = np.median(stacked, axis=0)
    else:
        centre = np.sort(stacked, axis=0)[tolerated : len(parts) - tolerated].mean(axis=0)
    return np.asarray(np.rint(len(parts) * centre), dtype=np.int64)


def noise_factor(sites: int, combination: Combination, tolerated: int) -> float:
    """Return the std of the combined noise over that of one site's, where all sites add Gaussian noise alike.

    For the sum sqrt(sites); else the asymptotic standard error of the trimmed mean of normal values
    (Huber and Ronchetti 2009, Robust Statistics, section 3.3) times ``sites``, whose limit is that of
    the median, sqrt(pi / 2).

    >>> round(noise_factor(9, "sum", 2), 3), round(noise_factor(9, "median", 2), 3)
    (3.0, 3.76)
    """
    if combination == "sum":
        return math.sqrt(sites)
    if combination == "median":
        return math.sqrt(sites * math.pi / 2)
    share = tolerated / sites
    if share == 0:
        return math.sqrt(sites)
    cut = _NORMAL.inv_cdf(1 - share)
    spread = 1 - 2 * share - 2 * cut * _NORMAL.pdf(cut) + 2 * share * cut**2
    return math.sqrt(sites * spread) / (1 - 2 * share)
