"""Products of features of chosen pairs of columns: what a record of a wide table contributes.

Never trusts a choice: whichever products a message asks for, their number is the schema's, and the core clips them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ...api import Array
from ...domains.encoding import Block
from .grouping import pooled
from .histograms import Histograms
from .pairs import CENTRE, DRAWS, MARGINALS_WEIGHT, NORM_QUANTILE, SCALE, TARGET_WEIGHT, features_of, shrink, weight_of

FEATURES: Final = "features"
FIRST: Final = "first"
SECOND: Final = "second"
INDEX_STEP: Final = 1024.0  # what an index is divided by: numbers of a message are small, and a power of 2 is exact

Places = npt.NDArray[np.int64]
"""Indices: of features, shape ``(products,)``, or of the two columns of each pair, shape ``(pairs, 2)``."""
Which = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Embedding:
    """What turns one-hot records into contributions.

    Attributes:
        table: every cell's features in its own column, 0 after the column's last, shape ``(width, most)``.
        counts: features that each column has here, at most those of the layout, shape ``(columns,)``.
        pairs: the chosen pairs of columns, the lower one first.
        first: the one feature of each product, pair after pair.
        second: the other.
        centre: what is taken off each cell, shape ``(width,)``.
        scale: what it is then multiplied by.
    """

    table: Array
    counts: Places
    pairs: Places
    first: Places
    second: Places
    centre: Array
    scale: Array

    @property
    def starts(self) -> Places:
        """The first product of every pair and, last, their number."""
        return np.concatenate([[0], np.cumsum(self.counts[self.pairs].prod(axis=1))])


class ColumnPairs:
    """Which numbers a record contributes: its cells once more, and products of two columns' features as asked.

    A column of g groups has g - 1 features: its groups' centred indicators sum to 0, so that an
    orthonormal basis of what is left tells as much with fewer numbers.

    Attributes:
        blocks: the columns' cells.
        sizes: number of cells of each.
        width: number of all cells.
        groups: that a column's cells are pooled into at most.
        counts: most features of each column.
        products: how many products there are in a message, asked for or not.
        dim: length of a contribution: cells, then products.
    """

    def __init__(self, blocks: Sequence[Block], groups: int, most: int) -> None:
        """Pool columns into at most ``groups`` groups and ask for at most ``most`` products."""
        self.blocks = tuple(blocks)
        self.sizes = tuple(block.width for block in blocks)
        self.width, self.groups = sum(self.sizes), groups
        self.counts = tuple(min(size, groups) - 1 for size in self.sizes)
        self.products = min((sum(self.counts) ** 2 - sum(count**2 for count in self.counts)) // 2, most)
        self.dim = self.width + self.products
        self._cells = np.cumsum([0, *self.sizes])
        self._features = np.cumsum([0, *self.counts])

    @property
    def payload(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Names and shapes of what the sites are sent, whatever is asked for."""
        products, cells = (self.products,), (self.width,)
        table = (self.width, max(self.counts))
        return ((FEATURES, table), (FIRST, products), (SECOND, products), (CENTRE, cells), (SCALE, cells))

    def embedding(self, histograms: Histograms, pairs: Places, target: int) -> Embedding:
        """Return the features of released columns, for as many of these pairs as there is room for.

        Args:
            histograms: every cell's released probability, smoothed.
            pairs: of columns, the lower one first, the most wanted pair first.
            target: position of the target column, whose pairs weigh more, but never more than all others.
        """
        columns = np.split(histograms.values, self._cells[1:-1])
        noise_std = float(histograms.noise_std.max())
        groups = [
            pooled(block, own, max(count + 1, 1), noise_std)
            for block, own, count in zip(self.blocks, columns, self.counts, strict=True)
        ]
        counts = np.array([int(each.max()) for each in groups], dtype=np.int64)
        kept = pairs[np.cumsum(counts[pairs].prod(axis=1)) <= self.products]
        of_target = int((kept == target).any(axis=1).sum())
        weight = min(max(np.sqrt((len(kept) - of_target) / max(of_target, 1)), 1.0), TARGET_WEIGHT)
        table, scale = np.zeros((self.width, max(self.counts))), []
        for i, (own, group, count) in enumerate(zip(columns, groups, counts, strict=True)):
            rows = slice(self._cells[i], self._cells[i + 1])
            contrasts = features_of(group, own, count + 1) @ _contrasts(count + 1)
            table[rows, :count] = (weight if i == target else 1.0) * contrasts
            scale.append(np.full(len(own), MARGINALS_WEIGHT * weight_of(len(own), own)))
        scales = np.concatenate(scale)
        longest = max(float(np.quantile(self._norms(columns, table, scales, kept), NORM_QUANTILE)), 1e-12)
        first, second = self._products(counts, kept)
        return Embedding(table / np.sqrt(longest), counts, kept, first, second, histograms.values, scales / longest)

    def message(self, embedding: Embedding) -> dict[str, npt.NDArray[np.float32]]:
        """Return what the sites are sent: arrays of the shapes in ``payload``, places not needed filled with 0."""
        rest = np.full(self.products - len(embedding.first), self._features[-1])
        arrays = {
            FEATURES: embedding.table,
            FIRST: np.concatenate([embedding.first, rest]) / INDEX_STEP,
            SECOND: np.concatenate([embedding.second, rest]) / INDEX_STEP,
            CENTRE: embedding.centre,
            SCALE: embedding.scale,
        }
        return {name: each.astype(np.float32) for name, each in arrays.items()}

    def contributions(self, batch: Array, arrays: Mapping[str, Array]) -> Array:
        """Return each one-hot record's centred cells and products of features, shape ``(rows, dim)``.

        An index of no feature stands for the nearest one; the last one of all is a feature that is always 0.
        """
        parts = [
            batch[:, self._cells[i] : self._cells[i + 1]]
            @ arrays[FEATURES][self._cells[i] : self._cells[i + 1], :count]
            for i, count in enumerate(self.counts)
        ]
        features = np.concatenate([*parts, np.zeros((len(batch), 1))], axis=1)
        first, second = (
            np.clip(np.rint(arrays[name] * INDEX_STEP), 0, self._features[-1]).astype(np.int64)
            for name in (FIRST, SECOND)
        )
        result = np.empty((len(batch), self.dim))
        result[:, : self.width] = (batch - arrays[CENTRE]) * arrays[SCALE]
        np.multiply(features.take(first, axis=1), features.take(second, axis=1), out=result[:, self.width :])
        return result

    def marginals(self, moments: Array, noise_std: float, embedding: Embedding) -> Histograms:
        """Return the columns' histograms as released moments have them, shape ``(dim,)``, with this noise in each."""
        return Histograms(embedding.centre + moments[: self.width] / embedding.scale, noise_std / embedding.scale)

    def denoise(self, products: Array, noise_std: float, embedding: Embedding) -> Array:
        """Return released products with each pair's block freed of noise, shape ``(products,)``."""
        shapes, starts, result = embedding.counts[embedding.pairs], embedding.starts, np.zeros(len(embedding.first))
        for shape in np.unique(shapes[shapes.all(axis=1)], axis=0):
            alike = np.flatnonzero((shapes == shape).all(axis=1))
            places = starts[alike, None] + np.arange(shape.prod())
            result[places] = shrink(products[places].reshape(-1, *shape), noise_std).reshape(places.shape)
        return result

    def _products(self, counts: Places, pairs: Places) -> tuple[Places, Places]:
        """Return the two features of every product of the pairs, the first column's slowest."""
        sizes = counts[pairs].prod(axis=1)
        own = np.repeat(np.arange(len(pairs)), sizes)
        within = np.arange(len(own)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        low, high = pairs[own].T
        row, column = np.divmod(within, np.maximum(counts[high], 1))
        return self._features[low] + row, self._features[high] + column

    def _norms(self, columns: Sequence[Array], table: Array, scale: Array, pairs: Places) -> Array:
        """Return the L2 norms of the contributions of independent draws, shape ``(DRAWS,)``, without making any."""
        rng = np.random.default_rng(0)  # public draws; any fixed ones will do, and a restart must draw the same
        drawn = np.stack([rng.choice(len(own), DRAWS, p=own) for own in columns], axis=1) + self._cells[:-1]
        squares = (table**2).sum(axis=1)[drawn]
        is_chosen = np.zeros((len(columns), len(columns)))
        is_chosen[pairs[:, 0], pairs[:, 1]] = 1.0
        centre = np.concatenate(columns)
        absent, present = (scale * centre) ** 2, (scale * (1 - centre)) ** 2
        cells = absent.sum() + (present - absent)[drawn].sum(axis=1)
        return np.asarray(np.sqrt(((squares @ is_chosen) * squares).sum(axis=1) + cells))


def _contrasts(groups: int) -> Array:
    """Return an orthonormal basis of the vectors whose entries sum to 0, shape ``(groups, groups - 1)``.

    >>> _contrasts(2).round(3).tolist()
    [[0.707], [-0.707]]
    """
    basis = np.zeros((groups, groups - 1))
    for i in range(groups - 1):
        basis[: i + 1, i], basis[i + 1, i] = 1.0, -(i + 1.0)
    return np.asarray(basis / np.maximum(np.linalg.norm(basis, axis=0), 1e-300))
