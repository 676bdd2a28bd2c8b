"""The histogram of all numbers of an array: the scale of the other statistics, and a correction of samples.

Never releases where in an array a level stands, only how often it occurs.
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from ...api import Array

SURE: Final = 2.0  # standard deviations of the noise


def level_shares(numbers: Array, levels: int) -> Array:
    """Return which part of each record's numbers lies next to each level, shape ``(rows, levels)``.

    The levels are evenly spaced on [-1, 1], both ends included. A record's parts sum to 1, so their
    L2 norm is at most 1.
    """
    codes = np.rint((np.clip(numbers, -1, 1) + 1) / 2 * (levels - 1)).astype(np.int64)
    flat = codes + levels * np.arange(len(codes))[:, None]
    counts = np.bincount(flat.ravel(), minlength=levels * len(codes))
    return np.asarray(counts.reshape(len(codes), levels) / numbers.shape[1])


@dataclass(frozen=True, slots=True)
class Levels:
    """How often each level occurs in all records together.

    Attributes:
        shares: probabilities of the levels, shape ``(levels,)``.
    """

    shares: Array

    @classmethod
    def of(cls, sums: Array, noise_std: float) -> Self:
        """Return the distribution next to released sums, uniform if noise left nothing of them.

        Levels that do not stand out of the noise count as empty: far from the others, even a little
        mass that is not there would widen every radius that follows from the variance.
        """
        kept = np.where(sums > SURE * noise_std, sums, 0.0)
        mass = float(kept.sum())
        return cls(kept / mass if mass > 0 else np.full(len(sums), 1 / len(sums)))

    @property
    def mean(self) -> float:
        """The mean number."""
        return float(self.shares @ self._values)

    @property
    def variance(self) -> float:
        """The variance of a number."""
        return max(float(self.shares @ (self._values - self.mean) ** 2), 1e-6)

    @property
    def _values(self) -> Array:
        return np.linspace(-1, 1, len(self.shares))

    def quantiles(self, parts: Array) -> Array:
        """Return the numbers below which these parts of all numbers lie, a level's share spread around it."""
        half = 1 / (len(self.shares) - 1)
        edges = np.clip(np.append(self._values - half, 1.0), -1, 1)
        reached = np.concatenate([[0.0], np.cumsum(self.shares)])
        return np.asarray(np.interp(parts, reached / reached[-1], edges))
