"""The contract of an anchor: private statistics and the sampler fitted to them, from which a network starts.

Never touches a record but through its declared sums; what is fitted to those is post-processing.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from synthfed.protocols.sums import Sum

from ..api import Answer, Array, Ask, Payload


class Fitting(Protocol):
    """The coordinator's half of an anchor."""

    def ask(self, remaining: Mapping[str, int]) -> Ask | None:
        """Return the next statistic wanted; None when all were asked for."""
        ...

    def receive(self, answer: Answer) -> None:
        """Use a released statistic."""
        ...

    def fit(self) -> None:
        """Fit the sampler to what was released; call it once, after the last statistic."""
        ...

    def sample(self, rows: int, rng: torch.Generator) -> torch.Tensor:
        """Return encoded records of the fitted sampler, shape ``(rows, width)``, float32."""
        ...

    @property
    def units_per_site(self) -> float:
        """The released estimate of a site's units, at least 1; the declared bound if none was released."""
        ...

    def progress(self) -> Mapping[str, float]:
        """Return public numbers of the fit."""
        ...

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return the whole state as named arrays."""
        ...

    def load(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Restore what ``state`` returned."""
        ...


class Anchor(Protocol):
    """What a study fixes of an anchor, and its half at a site."""

    @property
    def share(self) -> float:
        """The part of the budget that its sums take, in [0, 1)."""
        ...

    def sums(self) -> tuple[Sum, ...]:
        """Return its declared statistics."""
        ...

    def contributions(self, name: str, batch: Array, payload: Payload) -> Array:
        """Return each encoded record's contribution to a statistic, shape ``(rows, dim)``."""
        ...

    def fitting(self, seed: int) -> Fitting:
        """Return the coordinator's half; ``seed`` fixes initial weights and public draws."""
        ...


def tensor(values: npt.NDArray[Any]) -> torch.Tensor:
    """Return a tensor that shares no memory with an array of a checkpoint."""
    return torch.from_numpy(np.array(values))
