"""How far the associations of a generator's fakes are from the released moments of chosen pairs of columns.

Never draws a fake or sees a record: it compares expected moments with released ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from ...api import Array
from .column_pairs import ColumnPairs, Embedding, Places, Which

DENSE: Final = 16  # numbers to compute for each one that counts: a single product of matrices is still faster then


@dataclass(frozen=True, slots=True)
class _Row:
    """A column and its partners: its own features, theirs, and the moments of both, shape ``(own, theirs)``."""

    own: slice
    others: torch.Tensor
    moments: torch.Tensor


class ColumnMisfit:
    """The square misfit of the moments of some pairs of columns, in units of the noise.

    Attributes:
        count: of moments.
    """

    def __init__(
        self, layout: ColumnPairs, embedding: Embedding, moments: Array, noise_std: float, kept: Which
    ) -> None:
        """Compare with released moments.

        Args:
            layout: whose they are.
            embedding: what the sites were sent.
            moments: noise taken off, shape ``(products,)``.
            noise_std: standard deviation of the noise in each before that.
            kept: which pairs count, shape ``(pairs,)``.
        """
        self._sizes, self._counts = list(layout.sizes), embedding.counts
        self._tables = [
            torch.tensor(table[:, :count], dtype=torch.float32)
            for table, count in zip(
                np.split(embedding.table, np.cumsum(layout.sizes)[:-1]), embedding.counts, strict=True
            )
        ]
        self._starts = np.concatenate([[0], np.cumsum(embedding.counts)])
        blocks = [
            block.reshape(embedding.counts[pair])
            for pair, block in zip(embedding.pairs, np.split(moments, embedding.starts[1:-1]), strict=True)
        ]
        chosen = np.flatnonzero(kept)
        self.count = sum(blocks[i].size for i in chosen)
        self._variance = noise_std**2
        self._dense: tuple[torch.Tensor, torch.Tensor] | None = None
        self._rows: list[_Row] = []
        if self._starts[-1] ** 2 <= DENSE * self.count:
            self._dense = self._matrices(embedding.pairs[chosen], [blocks[i] for i in chosen])
        else:
            self._rows = self._by_column(embedding.pairs[chosen], [blocks[i] for i in chosen])

    def __call__(self, expected: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Return the sum of square misfits of cell probabilities; by noise alone it is about ``count``.

        Args:
            expected: of fakes, shape ``(rows, width)``.
            weights: of the fakes, with mean 1, shape ``(rows,)``; all alike if None.
        """
        blocks = expected.split_with_sizes(self._sizes, 1)
        # One feature of all fakes lies together, so that a choice of features is copied in whole pieces.
        features = torch.cat([table.T @ block.T for table, block in zip(self._tables, blocks, strict=True)])
        weighted = features if weights is None else features * weights
        # Centred on the fakes' own means, so that no drift of the marginals can pass for an association.
        means, rows = weighted.mean(1), features.shape[1]
        if self._dense is not None:
            wanted, is_counted = self._dense
            moments = weighted @ features.T / rows - torch.outer(means, means)
            return ((moments - wanted).square() * is_counted).sum() / self._variance
        misfit = torch.zeros(())
        for row in self._rows:
            moments = weighted[row.own] @ features[row.others].T / rows - torch.outer(means[row.own], means[row.others])
            misfit = misfit + (moments - row.moments).square().sum()
        return misfit / self._variance

    def _matrices(self, pairs: Places, blocks: Sequence[Array]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the moments and where they count, shape ``(features, features)`` each."""
        wanted, is_counted = np.zeros((2, self._starts[-1], self._starts[-1]), dtype=np.float32)
        for (low, high), block in zip(pairs, blocks, strict=True):
            place = np.s_[self._starts[low] : self._starts[low + 1], self._starts[high] : self._starts[high + 1]]
            wanted[place], is_counted[place] = block, 1.0
        return torch.from_numpy(wanted), torch.from_numpy(is_counted)

    def _by_column(self, pairs: Places, blocks: Sequence[Array]) -> list[_Row]:
        rows = []
        for low in np.unique(pairs[:, 0]):
            mine = np.flatnonzero(pairs[:, 0] == low).tolist()
            others = [np.arange(self._starts[high], self._starts[high + 1]) for high in pairs[mine, 1]]
            moments = torch.tensor(np.concatenate([blocks[i] for i in mine], axis=1), dtype=torch.float32)
            own = slice(int(self._starts[low]), int(self._starts[low + 1]))
            rows.append(_Row(own, torch.from_numpy(np.concatenate(others)), moments))
        return rows
