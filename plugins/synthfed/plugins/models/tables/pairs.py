"""The moments of a table: what a record contributes to them, and how the noise is taken off.

Never chooses a group or a weight by looking at records: both follow from the released marginals.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from ...api import Array
from ...domains.encoding import Block
from .grouping import Groups, pooled
from .histograms import Histograms

MAX_DIM: Final = 2**15
NORM_QUANTILE: Final = 0.9  # of independent draws: few real records are clipped, little of the range is wasted
TARGET_WEIGHT: Final = 3.0  # pairs with the target matter most to whoever learns from the data
MARGINALS_WEIGHT: Final = 1.5  # of the marginals, which are measured once more beside the pairs
LEAST_SPREAD: Final = 0.05  # a nearly constant column must not get an endless weight
DRAWS: Final = 2000
SHRUNK_NOISE: Final = 0.7  # of its standard deviation: the fit, which looks for a plain table, does the rest
LEAST_NORM: Final = 1e-2  # so that what the sites are sent stays far below the largest number that they take

EMBEDDING: Final = "embedding"
CENTRE: Final = "centre"
SCALE: Final = "scale"


class PairLayout:
    """Which numbers a record contributes: its cells once more, and products of two columns' features.

    All of it is a function of the schema alone.

    Attributes:
        blocks: the columns' cells.
        width: number of cells.
        counts: how many groups each column's cells are pooled into at most.
        mask: which products count, shape ``(features, features)``: each pair from different columns, once.
        dim: length of a contribution: cells, then products.
    """

    def __init__(self, blocks: Sequence[Block], groups: int) -> None:
        """Pool columns into at most ``groups`` groups, fewer where a table is wide."""
        self.blocks = tuple(blocks)
        self.sizes = tuple(block.width for block in blocks)
        self.width = sum(self.sizes)
        self.counts = next(
            counts
            for most in range(groups, 0, -1)
            if self.width + _products(counts := tuple(min(size, most) for size in self.sizes)) <= MAX_DIM or most == 1
        )
        column = np.repeat(np.arange(len(self.counts)), self.counts)
        self.mask: npt.NDArray[np.bool_] = column[:, None] < column[None, :]
        self.dim = self.width + int(self.mask.sum())

    @property
    def payload(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Names and shapes of what the sites are sent: the embedding, the cells' centre and scale."""
        return ((EMBEDDING, (self.width, sum(self.counts))), (CENTRE, (self.width,)), (SCALE, (self.width,)))

    def embedding(self, histograms: Histograms, target: int) -> dict[str, Array]:
        """Return what turns one-hot records into contributions: centred and weighted features, by name.

        Centring takes out what the marginals already tell. The scale makes most contributions of
        independent draws shorter than 1, the norm that the core clips to.

        Args:
            histograms: every cell's released probability, smoothed.
            target: position of the target column, which weighs more.

        Returns:
            Arrays of the shapes in ``payload``: features of every cell, and what is taken off each cell
            and what it is then multiplied by.
        """
        columns = np.split(histograms.values, np.cumsum(self.sizes)[:-1])
        noise_std = float(histograms.noise_std.max())
        matrix, scale = np.zeros((self.width, sum(self.counts))), []
        row = column = 0
        for i, (block, own, count) in enumerate(zip(self.blocks, columns, self.counts, strict=True)):
            weight = TARGET_WEIGHT if i == target else 1.0
            features = features_of(pooled(block, own, count, noise_std), own, count)
            matrix[row : row + len(own), column : column + count] = weight * features
            scale.append(np.full(len(own), MARGINALS_WEIGHT * weight_of(len(own), own)))
            row, column = row + len(own), column + count
        arrays = {EMBEDDING: matrix, CENTRE: histograms.values, SCALE: np.concatenate(scale)}
        rng = np.random.default_rng(0)  # public draws; any fixed ones will do, and a restart must draw the same
        independent = np.concatenate([rng.multinomial(1, own, DRAWS) for own in columns], axis=1)
        longest = max(float(np.quantile(self.norms(independent, arrays), NORM_QUANTILE)), LEAST_NORM)
        return {EMBEDDING: matrix / np.sqrt(longest), CENTRE: histograms.values, SCALE: arrays[SCALE] / longest}

    def contributions(self, batch: Array, arrays: Mapping[str, Array]) -> Array:
        """Return each one-hot record's centred cells and products of features, shape ``(rows, dim)``."""
        features = batch @ arrays[EMBEDDING]
        rows, result = len(batch), np.empty((len(batch), self.dim))
        result[:, : self.width] = (batch - arrays[CENTRE]) * arrays[SCALE]
        first, place = 0, self.width
        for count in self.counts[:-1]:  # a column's products with all later ones lie together
            own, later = features[:, first : first + count], features[:, first + count :]
            products = result[:, place : place + count * later.shape[1]].reshape(rows, count, later.shape[1])
            np.multiply(own[:, :, None], later[:, None, :], out=products)
            first, place = first + count, place + count * later.shape[1]
        return result

    def norms(self, batch: Array, arrays: Mapping[str, Array]) -> Array:
        """Return the L2 norm of each record's contribution, shape ``(rows,)``, without making any.

        The squared products of all pairs of columns sum to the products of the columns' squared sums.
        """
        starts = np.cumsum([0, *self.counts[:-1]])
        columns = np.add.reduceat((batch @ arrays[EMBEDDING]) ** 2, starts, axis=1)
        products = np.maximum(columns.sum(1) ** 2 - (columns**2).sum(1), 0.0) / 2
        cells = (((batch - arrays[CENTRE]) * arrays[SCALE]) ** 2).sum(1)
        return np.asarray(np.sqrt(products + cells))

    def marginals(self, moments: Array, noise_std: float, arrays: Mapping[str, Array]) -> Histograms:
        """Return the columns' histograms as released moments have them.

        Args:
            moments: shape ``(dim,)``.
            noise_std: standard deviation of the noise in each.
            arrays: what the sites were sent.
        """
        return Histograms(arrays[CENTRE] + moments[: self.width] / arrays[SCALE], noise_std / arrays[SCALE])

    def denoise(self, moments: Array, noise_std: float, arrays: Mapping[str, Array], target: int) -> Array:
        """Return the products' moments as a matrix, each column pair's block freed of noise; 0 outside ``mask``.

        Only what no table of centred features can have is taken off the pairs with the target: each may be too
        faint to stand out, and yet a learner who adds them up learns from all together.

        Args:
            moments: shape ``(dim,)``.
            noise_std: standard deviation of the noise in each.
            arrays: what the sites were sent.
            target: position of the target column.

        Returns:
            Shape ``(features, features)``.
        """
        noisy, clean = np.zeros(self.mask.shape), np.zeros(self.mask.shape)
        noisy[self.mask] = moments[self.width :]
        # A column with fewer groups than features has some that are always 0, and noise alone in their products.
        used = np.flatnonzero(arrays[EMBEDDING].any(0))
        columns = np.split(used, np.searchsorted(used, np.cumsum(self.counts)[:-1]))
        for i, first in enumerate(columns):
            for j, second in enumerate(columns[i + 1 :], i + 1):
                block, part = np.ix_(first, second), 0.0 if target in (i, j) else SHRUNK_NOISE
                clean[block] = _shrink_centred(noisy[block], part * noise_std)
        return clean


def shrink(block: Array, noise_std: float, shape: tuple[int, int] | None = None) -> Array:
    """Return matrices with their singular values shrunk: what does not stand out of the noise becomes 0.

    The shrinker is the best one in Frobenius norm for white noise of known size (Gavish and Donoho 2017,
    arXiv:1405.7511).

    Args:
        block: any axes before the last two are those of a stack of matrices.
        noise_std: standard deviation of the noise in each entry.
        shape: rows and columns that the noise fills, where it was taken out of some directions; all if not given.
    """
    left, values, right = np.linalg.svd(block, full_matrices=False)
    rows, columns = shape or block.shape[-2:]
    unit, ratio = noise_std * np.sqrt(max(rows, columns)), min(rows, columns) / max(rows, columns)
    seen = values / unit
    gain = np.sqrt(np.maximum((seen**2 - ratio - 1) ** 2 - 4 * ratio, 0.0)) / np.maximum(seen, 1e-12)
    kept = np.where(seen > 1 + np.sqrt(ratio), gain, 0.0) * unit
    return np.asarray((left * kept[..., None, :]) @ right)


def _shrink_centred(block: Array, noise_std: float) -> Array:
    """Return a block of moments of centred indicators freed of noise.

    Their products sum to 0 along both axes: sums that are not are noise, and what is left fills one row
    and one column less.
    """
    rows, columns = block.shape
    if min(rows, columns) < 2:
        return np.zeros_like(block)
    centred = np.asarray(block - block.mean(0) - block.mean(1, keepdims=True) + block.mean())
    return shrink(centred, noise_std, (rows - 1, columns - 1)) if noise_std > 0 else centred


def _products(counts: Sequence[int]) -> int:
    return (sum(counts) ** 2 - sum(count**2 for count in counts)) // 2


def features_of(group: Groups, probabilities: Array, count: int) -> Array:
    """Return one column's features by cell, shape ``(cells, count)``: its groups' indicators, centred and weighted."""
    indicators = np.eye(count)[group]
    mass = probabilities @ indicators
    return np.asarray((indicators - mass) * weight_of(int(group.max()) + 1, mass))


def weight_of(groups: int, mass: Array) -> float:
    """Return a weight that favours columns with many groups and little spread, whose signal is fainter."""
    return float((groups / max(1.0 - float(np.sum(mass**2)), LEAST_SPREAD)) ** (1 / 3))
