"""What the coordinator makes of released sums: averages, probabilities and a number of units.

Never touches a record: all of this is arithmetic on noisy sums that were already released.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..api import Answer, Array

FLOOR: Final = 1e-5  # a cell that noise has emptied keeps a probability, so that its logit is finite


@dataclass(frozen=True, slots=True)
class Released:
    """The released sums of one kind so far, weighted by the inverse of their variance.

    Attributes:
        total: weighted sum of the released totals, shape ``(dim,)``.
        sites: weighted sum of the numbers of sites.
        weight: sum of the weights, 0 before the first release; also the variance of ``total``.
    """

    total: Array
    sites: float = 0.0
    weight: float = 0.0

    def add(self, answer: Answer) -> "Released":
        """Return the average with one more release."""
        weight = max(answer.noise_std, 1e-9) ** -2
        return Released(self.total + weight * answer.total, self.sites + weight * answer.sites, self.weight + weight)

    @property
    def per_site(self) -> Array:
        """The mean contribution of a site, shape ``(dim,)``."""
        return self.total / max(self.sites, 1e-300)

    @property
    def noise_per_site(self) -> float:
        """Standard deviation of the noise in each coordinate of ``per_site``."""
        return float(np.sqrt(self.weight) / max(self.sites, 1e-300))

    def per_unit(self, units_per_site: float) -> tuple[Array, float]:
        """Return a unit's mean contribution, shape ``(dim,)``, and the noise's standard deviation in each number."""
        return self.per_site / units_per_site, self.noise_per_site / units_per_site


def units_per_site(marginals: Released, columns: int) -> float:
    """Return the estimated mean number of units of a site, at least 1.

    A unit's marginal contribution is 1 / sqrt(columns) in one cell of every column.
    """
    return max(float(marginals.per_site.sum() / np.sqrt(columns)), 1.0)


def shares(marginals: Released, sizes: Sequence[int]) -> Array:
    """Return every cell's share of its column, noise and all, shape ``(width,)``; uniform without a release.

    Each column sums to 1; a cell may be negative.
    """
    blocks = np.split(marginals.per_site, np.cumsum(sizes)[:-1])
    even = [np.full(size, 1.0 / size) for size in sizes]
    sums = [float(block.sum()) for block in blocks]
    return np.concatenate([b / mass if mass > 0 else flat for b, mass, flat in zip(blocks, sums, even, strict=True)])


def probabilities(noisy: Array, sizes: Sequence[int]) -> Array:
    """Return the nearest probabilities to noisy ones, none below ``FLOOR``, shape ``(width,)``; columns sum to 1."""
    blocks = np.split(noisy, np.cumsum(sizes)[:-1])
    floored = [np.maximum(project_to_simplex(block), FLOOR) for block in blocks]
    return np.concatenate([block / block.sum() for block in floored])


def project_to_simplex(values: Array) -> Array:
    """Return the nearest probability vector in L2 (Held, Wolfe and Crowder 1974, doi:10.1007/BF01580223).

    >>> project_to_simplex(np.array([0.75, 0.5, -0.25])).tolist()
    [0.625, 0.375, 0.0]
    """
    falling = np.sort(values)[::-1]
    shifts = (np.cumsum(falling) - 1.0) / np.arange(1, len(values) + 1)
    return np.asarray(np.maximum(values - shifts[falling > shifts][-1], 0.0))
