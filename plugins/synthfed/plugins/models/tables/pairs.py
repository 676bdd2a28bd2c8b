"""The two-way moments of a table: what a record contributes to them, and how the noise is taken off.

Never chooses a group or a weight by looking at records: both follow from the released marginals.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from ...api import Array

MAX_DIM: Final = 2**15
NORM_QUANTILE: Final = 0.9  # of independent draws: few real records are clipped, little of the range is wasted
TARGET_WEIGHT: Final = 3.0  # pairs with the target matter most to whoever learns from the data
LEAST_SPREAD: Final = 0.05  # a nearly constant column must not get an endless weight
DRAWS: Final = 2000


class PairLayout:
    """Which products of two columns' features a record contributes; a function of the schema alone.

    Attributes:
        counts: how many groups each column's cells are pooled into.
        mask: which products count, shape ``(features, features)``: each pair from different columns, once.
        dim: number of those products.
    """

    def __init__(self, sizes: Sequence[int], groups: int) -> None:
        """Pool columns of ``sizes`` cells into at most ``groups`` groups, fewer where a table is wide."""
        self.sizes = tuple(sizes)
        self.counts = next(
            counts
            for most in range(groups, 0, -1)
            if _products(counts := tuple(min(size, most) for size in self.sizes)) <= MAX_DIM or most == 1
        )
        column = np.repeat(np.arange(len(self.counts)), self.counts)
        self.mask: npt.NDArray[np.bool_] = column[:, None] < column[None, :]
        self._first, self._second = np.nonzero(self.mask)
        self.dim = len(self._first)

    def embedding(self, probabilities: Array, target: int) -> Array:
        """Return the matrix from one-hot records to centred, weighted group indicators.

        Centring takes out what the marginals already tell. The scale makes most contributions of
        independent draws shorter than 1, the norm that the core clips to.

        Args:
            probabilities: every cell's released probability, shape ``(width,)``.
            target: position of the target column, which weighs more.

        Returns:
            Shape ``(width, features)``.
        """
        blocks = np.split(probabilities, np.cumsum(self.sizes)[:-1])
        matrix = np.zeros(self.shape)
        row = column = 0
        for i, (block, count) in enumerate(zip(blocks, self.counts, strict=True)):
            weight = TARGET_WEIGHT if i == target else 1.0
            matrix[row : row + len(block), column : column + count] = weight * _features(block, count)
            row, column = row + len(block), column + count
        rng = np.random.default_rng(0)  # public draws; any fixed ones will do, and a restart must draw the same
        independent = np.concatenate([rng.multinomial(1, block, DRAWS) for block in blocks], axis=1)
        norms = self.norms(independent, matrix)
        return np.asarray(matrix / np.sqrt(max(float(np.quantile(norms, NORM_QUANTILE)), 1e-12)))

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the embedding: cells and features."""
        return sum(self.sizes), sum(self.counts)

    def contributions(self, batch: Array, embedding: Array) -> Array:
        """Return each one-hot record's products of features, shape ``(rows, dim)``."""
        features = batch @ embedding
        return np.asarray(features[:, self._first] * features[:, self._second])

    def norms(self, batch: Array, embedding: Array) -> Array:
        """Return the L2 norm of each record's contribution, shape ``(rows,)``, without making any.

        The squared products of all pairs of columns sum to the products of the columns' squared sums.
        """
        starts = np.cumsum([0, *self.counts[:-1]])
        columns = np.add.reduceat((batch @ embedding) ** 2, starts, axis=1)
        return np.asarray(np.sqrt(np.maximum(columns.sum(1) ** 2 - (columns**2).sum(1), 0.0) / 2))

    def denoise(self, moments: Array, noise_std: float) -> Array:
        """Return the moments as a matrix, each column pair's block freed of noise; 0 outside ``mask``.

        Args:
            moments: shape ``(dim,)``.
            noise_std: standard deviation of the noise in each.

        Returns:
            Shape ``(features, features)``.
        """
        matrix = np.zeros(self.mask.shape)
        matrix[self.mask] = moments
        edges = np.cumsum([0, *self.counts])
        for i in range(len(self.counts)):
            for j in range(i + 1, len(self.counts)):
                block = np.s_[edges[i] : edges[i + 1], edges[j] : edges[j + 1]]
                matrix[block] = shrink(matrix[block], noise_std)
        return matrix


def shrink(block: Array, noise_std: float) -> Array:
    """Return a matrix with its singular values shrunk: what does not stand out of the noise becomes 0.

    The shrinker is the best one in Frobenius norm for white noise of known size (Gavish and Donoho
    2017, arXiv:1405.7511).
    """
    left, values, right = np.linalg.svd(block, full_matrices=False)
    unit = noise_std * np.sqrt(max(block.shape))
    ratio = min(block.shape) / max(block.shape)
    seen = values / unit
    gain = np.sqrt(np.maximum((seen**2 - ratio - 1) ** 2 - 4 * ratio, 0.0)) / np.maximum(seen, 1e-12)
    kept = np.where(seen > 1 + np.sqrt(ratio), gain, 0.0) * unit
    return np.asarray((left * kept) @ right)


def _products(counts: Sequence[int]) -> int:
    return (sum(counts) ** 2 - sum(count**2 for count in counts)) // 2


def _features(probabilities: Array, count: int) -> Array:
    """Return one column's features by cell: neighbours pooled to about equal mass, centred, weighted.

    The weight favours columns with many groups and little spread, whose signal is fainter.
    """
    cells = np.arange(len(probabilities))
    middle = np.cumsum(probabilities) - probabilities / 2
    pooled = np.minimum((middle * count).astype(np.int64), count - 1)
    group = cells if len(cells) == count else pooled
    indicators = np.eye(count)[group]
    mass = probabilities @ indicators
    spread = max(1.0 - float(np.sum(mass**2)), LEAST_SPREAD)
    return np.asarray((indicators - mass) * (len(np.unique(group)) / spread) ** (1 / 3))
