"""The coordinator's half of a wide table's moments: a scan of all pairs, and the pairs that it chose.

Never sees a record: pairs are chosen by what a scan released.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from ...api import Answer, Ask
from ..marginals import Released
from .column_misfit import ColumnMisfit
from .column_pairs import ColumnPairs, Embedding
from .histograms import Histograms
from .once import Once
from .pair_fitting import PAIRS, released_of, released_state
from .wide_pairs import WideLayout

SCAN: Final = "scan"


class WideMisfit:
    """The mean square misfit of a scan and of chosen pairs, each in units of its own noise.

    Attributes:
        count: of moments.
    """

    def __init__(self, parts: tuple[ColumnMisfit, ...]) -> None:
        """Take all moments of all parts as equals."""
        self._parts, self.count = parts, max(sum(part.count for part in parts), 1)

    def __call__(self, expected: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Return the misfit of cell probabilities, shape ``(rows, width)``, of fakes with these weights."""
        return torch.stack([part(expected, weights) for part in self._parts]).sum() / self.count


class WideFitting:
    """The released moments of a scan and of the pairs chosen by it."""

    def __init__(self, layout: WideLayout) -> None:
        """Start without a release."""
        self._layout = layout
        self._scan, self._chosen = Released(np.zeros(layout.scan.dim)), Released(np.zeros(layout.chosen.dim))
        self._scan_embedding, self._chosen_embedding = Once[Embedding](), Once[Embedding]()

    def ask(self, remaining: Mapping[str, int], first: Callable[[], Histograms]) -> Ask | None:
        """Return every round of the scan, then of the chosen pairs: no later scan may change the choice."""
        if remaining.get(SCAN, 0) > 0:
            return Ask(SCAN, self._layout.scan.message(self._scanned(first())))
        if remaining.get(PAIRS, 0) > 0:
            return Ask(PAIRS, self._layout.chosen.message(self._choice(first())))
        return None

    def receive(self, answer: Answer) -> None:
        """Add a statistic to its average."""
        if answer.sum == SCAN:
            self._scan = self._scan.add(answer)
        else:
            self._chosen = self._chosen.add(answer)

    def histograms(self, units_per_site: float, first: Callable[[], Histograms]) -> tuple[Histograms, ...]:
        """Return the marginals as both statistics have them once more."""
        return tuple(
            layout.marginals(*released.per_unit(units_per_site), embedding)
            for layout, released, embedding in self._released(first())
        )

    def misfit(self, units_per_site: float, first: Callable[[], Histograms]) -> WideMisfit | None:
        """Return the misfit of what was released; None where nothing was.

        A pair that was measured in full no longer counts in the scan, whose coarse groups tell less of it.
        """
        parts, seen = [], np.empty((0, 2), dtype=np.int64)
        for layout, released, embedding in reversed(self._released(first())):
            moments, noise_std = released.per_unit(units_per_site)
            clean = layout.denoise(moments[layout.width :], noise_std, embedding)
            columns = len(layout.sizes)
            is_new = ~np.isin(embedding.pairs @ [columns, 1], seen @ [columns, 1])
            parts.append(ColumnMisfit(layout, embedding, clean, noise_std, is_new))
            seen = embedding.pairs
        return WideMisfit(tuple(parts)) if parts else None

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return what was released."""
        return released_state(SCAN, self._scan) | released_state(PAIRS, self._chosen)

    def load(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Restore what ``state`` returned."""
        self._scan, self._chosen = released_of(SCAN, state), released_of(PAIRS, state)

    def _released(self, first: Histograms) -> list[tuple[ColumnPairs, Released, Embedding]]:
        """Return each statistic that was released, the scan first."""
        found = []
        if self._scan.weight > 0:
            found.append((self._layout.scan, self._scan, self._scanned(first)))
        if self._chosen.weight > 0:
            found.append((self._layout.chosen, self._chosen, self._choice(first)))
        return found

    def _scanned(self, first: Histograms) -> Embedding:
        layout = self._layout
        return self._scan_embedding(lambda: layout.scan.embedding(first, layout.every, layout.target), first)

    def _choice(self, first: Histograms) -> Embedding:
        """Return the embedding of the chosen pairs; without a scan those that would be scanned first."""
        return self._chosen_embedding(lambda: self._choose(first), first, self._scan)

    def _choose(self, first: Histograms) -> Embedding:
        layout, pairs = self._layout, self._layout.every
        if self._scan.weight > 0:
            # Only the ratio to the noise matters here, whatever the number of units.
            moments, noise_std = self._scan.per_site, self._scan.noise_per_site
            pairs = layout.choose(self._scanned(first), moments[layout.scan.width :], noise_std)
        return layout.chosen.embedding(first, pairs, layout.target)
