"""Which pairs of columns of a wide table are measured: all coarsely, then those that stand out in full.

Never looks at a record: the choice is made from a released, noisy scan of all pairs.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from ...api import Array
from ...domains.encoding import Block
from .column_pairs import ColumnPairs, Embedding, Places, Which
from .pairs import MAX_DIM, PairLayout

FEW_GROUPS: Final = 4  # to which all pairs of a wide table would be cut
SCAN_GROUPS: Final = 3  # tell a trend from a middle that is unlike both ends
STANDS_OUT: Final = 3.5  # standard deviations of noise alone: each pair chosen by chance dilutes all others
TARGETS_ROOM: Final = 0.5  # part of the products that is the target's before the others have chosen


def is_wide(layout: PairLayout, groups: int) -> bool:
    """Return whether all pairs at once leave few groups where the units bear at least twice as many."""
    return max(layout.counts) <= FEW_GROUPS and 2 * max(layout.counts) <= min(groups, max(layout.sizes))


class WideLayout:
    """The two statistics of a wide table's pairs, functions of the schema alone but for the chosen pairs.

    Attributes:
        scan: few groups of each column.
        every: the pairs of the scan: all of them, or, with more columns than there are products, the
            target's and then those that are closest together in the table.
        chosen: all groups of the chosen pairs.
        target: position of the target column.
    """

    def __init__(self, blocks: Sequence[Block], groups: int, target: int) -> None:
        """Lay both out for columns that are pooled into at most ``groups`` groups."""
        self.target = target
        self.scan = next(
            layout
            for most in range(min(SCAN_GROUPS, groups), 1, -1)
            if (layout := ColumnPairs(blocks, most, MAX_DIM)).products < MAX_DIM or most == 2
        )
        self.chosen = ColumnPairs(blocks, groups, MAX_DIM)
        pairs = np.stack(np.triu_indices(len(self.scan.sizes), 1), axis=1)
        self.every = pairs[np.lexsort((pairs[:, 1] - pairs[:, 0], self._without_target(pairs)))]

    def choose(self, scanned: Embedding, products: Array, noise_std: float) -> Places:
        """Return the pairs to measure, the most wanted first.

        Args:
            scanned: what the sites were sent.
            products: the released moments of the scan, shape ``(products,)``.
            noise_std: standard deviation of the noise in each.
        """
        energy, counts = energies(scanned, products / noise_std), np.diff(scanned.starts)
        excess, is_out = energy - counts, standing(energy, counts) > STANDS_OUT
        pairs, without = scanned.pairs, self._without_target(scanned.pairs)
        falling = np.argsort(-excess, kind="stable")
        targets, others = falling[~without[falling]], falling[(without & is_out)[falling]]
        most = np.array(self.chosen.counts)[pairs].prod(axis=1)
        first = targets[np.cumsum(most[targets]) <= TARGETS_ROOM * self.chosen.products]
        return np.asarray(pairs[np.concatenate([first, others, targets[len(first) :]])])

    def _without_target(self, pairs: Places) -> Which:
        return np.asarray((pairs != self.target).all(axis=1))


def energies(embedding: Embedding, products: Array) -> Array:
    """Return the sum of squares of every pair's products, shape ``(pairs,)``."""
    sums = np.concatenate([[0.0], np.cumsum(products[: embedding.starts[-1]] ** 2)])
    return np.diff(sums[embedding.starts])


def standing(energy: Array, counts: Places) -> Array:
    """Return how many standard deviations sums of so many squares are above those of standard normal noise.

    By the cube root of a chi-square variable, which is close to normal (Wilson and Hilferty 1931,
    doi:10.1073/pnas.17.12.684). Nothing stands out of no products.
    """
    spread = 2.0 / (9.0 * np.maximum(counts, 1))
    root = np.cbrt(energy / np.maximum(counts, 1))
    return np.where(counts > 0, (root - (1.0 - spread)) / np.sqrt(spread), -np.inf)
