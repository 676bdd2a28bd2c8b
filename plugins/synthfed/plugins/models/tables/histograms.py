"""Every column's histogram as the releases have it: noise and all, averaged, and smoothed to probabilities.

Never sees a record: all of it is arithmetic on released sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...api import Array
from ...domains.encoding import Block
from ..marginals import Released, probabilities, shares, units_per_site
from .grouping import smoothed

UNKNOWN_STD = 1.0  # of a probability before anything was released


@dataclass(frozen=True, slots=True)
class Histograms:
    """The columns' histograms side by side.

    Attributes:
        values: every cell's probability, shape ``(width,)``; with noise, so that some may be negative.
        noise_std: of each, shape ``(width,)``.
    """

    values: Array
    noise_std: Array

    @classmethod
    def of(cls, marginals: Released, sizes: Sequence[int]) -> "Histograms":
        """Return released marginals as histograms; uniform without a release."""
        noise_std = UNKNOWN_STD
        if marginals.weight > 0:
            columns = len(sizes)
            # A unit's contribution to a cell is 1 / sqrt(columns).
            noise_std = marginals.noise_per_site * float(np.sqrt(columns)) / units_per_site(marginals, columns)
        return cls(shares(marginals, sizes), np.full(sum(sizes), noise_std))

    def averaged(self, other: "Histograms") -> "Histograms":
        """Return the mean of two independent releases, each cell by the inverse of its variance."""
        mine, others = self.noise_std**-2.0, other.noise_std**-2.0
        return Histograms((mine * self.values + others * other.values) / (mine + others), (mine + others) ** -0.5)

    def smoothed(self, blocks: Sequence[Block], groups: int) -> "Histograms":
        """Return probabilities: neighbouring cells shrunk to each other, none negative, each column's sum 1."""
        sizes = [block.width for block in blocks]
        starts = np.cumsum(sizes)[:-1]
        parts = zip(blocks, np.split(self.values, starts), np.split(self.noise_std, starts), strict=True)
        smooth = np.concatenate([smoothed(block, values, noise, groups) for block, values, noise in parts])
        return Histograms(probabilities(smooth, sizes), self.noise_std)
