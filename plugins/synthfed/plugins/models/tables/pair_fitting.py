"""The coordinator's half of the two-way moments of a table: what is asked for, and what was released.

Never sees a record: all that it works on was released.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch

from ...api import Answer, Array, Ask
from ..marginals import Released
from .histograms import Histograms
from .misfit import PairMisfit
from .once import Once
from .pairs import EMBEDDING, PairLayout

PAIRS: Final = "pairs"


class Misfit(Protocol):
    """The mean square misfit of two-way moments, in units of the noise."""

    @property
    def count(self) -> int:
        """How many moments there are."""
        ...

    def __call__(self, expected: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Return the misfit of cell probabilities, shape ``(rows, width)``, of fakes with these weights."""
        ...


class Moments(Protocol):
    """Released two-way moments; ``first`` are always the histograms as the marginals alone have them.

    While these are the same, ``first`` gives the very same object, so that what is made of them is made once.
    """

    def ask(self, remaining: Mapping[str, int], first: Callable[[], Histograms]) -> Ask | None:
        """Return what to ask for next."""
        ...

    def receive(self, answer: Answer) -> None:
        """Add a statistic to its average."""
        ...

    def histograms(self, units_per_site: float, first: Callable[[], Histograms]) -> tuple[Histograms, ...]:
        """Return the marginals as every release of moments has them once more."""
        ...

    def misfit(self, units_per_site: float, first: Callable[[], Histograms]) -> Misfit | None:
        """Return the misfit of what was released; None where nothing was."""
        ...

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return what was released."""
        ...

    def load(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Restore what ``state`` returned."""
        ...


class PairFitting:
    """The released moments of all pairs of columns."""

    def __init__(self, layout: PairLayout, target: int) -> None:
        """Start without a release."""
        self._layout, self._target = layout, target
        self._pairs = Released(np.zeros(layout.dim))
        self._embedding = Once[dict[str, Array]]()  # every round asks for it, and every estimate needs it

    def ask(self, remaining: Mapping[str, int], first: Callable[[], Histograms]) -> Ask | None:
        """Return what to ask for next."""
        if remaining.get(PAIRS, 0) == 0:
            return None
        arrays = self._arrays(first())
        return Ask(PAIRS, {name: each.astype(np.float32) for name, each in arrays.items()})

    def receive(self, answer: Answer) -> None:
        """Add a statistic to its average."""
        self._pairs = self._pairs.add(answer)

    def histograms(self, units_per_site: float, first: Callable[[], Histograms]) -> tuple[Histograms, ...]:
        """Return the marginals as the moments have them once more."""
        if self._pairs.weight == 0:
            return ()
        arrays = self._arrays(first())
        return (self._layout.marginals(*self._pairs.per_unit(units_per_site), arrays),)

    def misfit(self, units_per_site: float, first: Callable[[], Histograms]) -> PairMisfit | None:
        """Return the misfit of what was released; None where nothing was."""
        if self._pairs.weight == 0:
            return None
        arrays = self._arrays(first())
        moments, noise_std = self._pairs.per_unit(units_per_site)
        clean = self._layout.denoise(moments, noise_std, arrays, self._target)
        return PairMisfit(self._layout, arrays[EMBEDDING], clean, noise_std)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return what was released."""
        return released_state(PAIRS, self._pairs)

    def load(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Restore what ``state`` returned."""
        self._pairs = released_of(PAIRS, state)

    def _arrays(self, first: Histograms) -> dict[str, Array]:
        return self._embedding(lambda: self._layout.embedding(first, self._target), first)


def released_state(name: str, released: Released) -> dict[str, npt.NDArray[Any]]:
    """Return released sums of one kind as arrays."""
    return {f"{name}.total": released.total.copy(), f"{name}.weights": np.array([released.sites, released.weight])}


def released_of(name: str, state: Mapping[str, npt.NDArray[Any]]) -> Released:
    """Return what ``released_state`` made arrays of."""
    sites, weight = state[f"{name}.weights"]
    return Released(state[f"{name}.total"].copy(), float(sites), float(weight))
