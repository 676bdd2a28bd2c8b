"""Feature matching through a private sum: the released mean of a critic's features, and the fakes' distance to it.

Never looks at a record outside a site, where each contributes a vector of norm 1 at most.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from ...api import Answer
from ..adam import set_flat
from ..anchor import tensor
from .critics import Critic

FEATURES: Final = "features"


def bounded(features: torch.Tensor) -> torch.Tensor:
    """Return features squashed into a vector of norm at most 1, so that the core's clipping changes none."""
    squashed: torch.Tensor = features.tanh()
    return squashed / math.sqrt(features.shape[1])


class FeatureMatching:
    """A released mean of bounded features, and the critic whose features they are.

    The generator is drawn to fakes with the same mean (Salimans et al. 2016, arXiv:1606.03498). The
    critic moves on between two releases; the features stay those of the weights that were sent.
    """

    def __init__(self, critic: Critic) -> None:
        """Start without a release; ``critic`` is a copy of its own."""
        self._critic = critic
        size = critic.exit.in_features
        self._weights = torch.zeros(sum(each.numel() for each in critic.parameters()))
        self._mean, self._noise_std, self._step = torch.zeros(size), 0.0, -1

    def is_due(self, step: int, every: int) -> bool:
        """Return whether a new mean is due before the critic's step number ``step``, counted from 0."""
        return step % every == 0 and self._step != step

    def receive(self, answer: Answer, weights: torch.Tensor, lot: float, step: int) -> None:
        """Take a released sum.

        Args:
            answer: the sum.
            weights: the critic's, as they were sent, flat.
            lot: expected number of units in the sum.
            step: the critic's step that follows.
        """
        self._weights, self._step = weights, step
        self._mean = torch.tensor(answer.total / lot, dtype=torch.float32)
        self._noise_std = max(answer.noise_std / lot, 1e-6)
        set_flat(self._critic, weights)

    def misfit(self, fakes: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor | None:
        """Return the mean square distance of the fakes' mean features, in units of the noise; None before a release.

        Args:
            fakes: encoded fakes, shape ``(rows, width)``.
            weights: of each, with mean 1, shape ``(rows,)``.
        """
        if self._step < 0:
            return None
        features = bounded(self._critic.features(fakes))
        mean = (features if weights is None else features * weights[:, None]).mean(0)
        return ((mean - self._mean) / self._noise_std).square().mean()

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return the release and the weights it belongs to."""
        return {
            "features.weights": self._weights.numpy().copy(),
            "features.mean": self._mean.numpy().copy(),
            "features.release": np.array([self._noise_std, self._step]),
        }

    def load(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Restore what ``state`` returned."""
        self._weights, self._mean = tensor(state["features.weights"]), tensor(state["features.mean"])
        noise_std, step = state["features.release"]
        self._noise_std, self._step = float(noise_std), int(step)
        set_flat(self._critic, self._weights)
