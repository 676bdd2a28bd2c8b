"""Adam on flat parameter vectors, and parameters as one vector.

Never keeps more than can be saved as two vectors and a count.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

SQUARE_DECAY: Final = 0.99


@dataclass(slots=True)
class Adam:
    """Adam (Kingma and Ba 2015, arXiv:1412.6980) whose whole state is two vectors and a count."""

    mean: torch.Tensor
    square: torch.Tensor
    count: int = 0

    @classmethod
    def of(cls, module: nn.Module) -> Self:
        """Return a fresh state for a module's parameters."""
        size = sum(each.numel() for each in module.parameters())
        return cls(torch.zeros(size), torch.zeros(size))

    def step(self, module: nn.Module, gradient: torch.Tensor, rate: float, decay: float) -> None:
        """Move a module's parameters against a flat gradient; ``decay`` is that of the gradient's mean."""
        self.count += 1
        self.mean.lerp_(gradient, 1 - decay)
        self.square.lerp_(gradient.square(), 1 - SQUARE_DECAY)
        scale = self.square_estimate.sqrt_().add_(1e-8)
        flat = flatten(module).sub_(self.mean / scale, alpha=rate / (1 - decay**self.count))
        set_flat(module, flat)

    @property
    def square_estimate(self) -> torch.Tensor:
        """A fresh estimate of the gradient's mean square, after the first step."""
        return self.square / (1 - SQUARE_DECAY**self.count)

    def state(self, name: str) -> dict[str, npt.NDArray[Any]]:
        """Return a copy of everything as arrays whose names begin with ``name``."""
        return {
            f"{name}.mean": self.mean.numpy().copy(),
            f"{name}.square": self.square.numpy().copy(),
            f"{name}.count": np.array([self.count], dtype=np.int64),
        }

    @classmethod
    def load(cls, name: str, state: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Return what ``state`` was taken of."""
        mean, square = (torch.from_numpy(state[f"{name}.{part}"].copy()) for part in ("mean", "square"))
        return cls(mean, square, int(state[f"{name}.count"][0]))


def flatten(module: nn.Module) -> torch.Tensor:
    """Return a copy of a module's parameters as one vector, in their order."""
    return torch.cat([each.detach().flatten() for each in module.parameters()])


def set_flat(module: nn.Module, flat: torch.Tensor) -> None:
    """Set a module's parameters from one vector."""
    with torch.no_grad():
        sizes = [each.numel() for each in module.parameters()]
        for each, part in zip(module.parameters(), flat.split_with_sizes(sizes), strict=True):
            each.copy_(part.view_as(each))


def flat_gradient(loss: torch.Tensor, module: nn.Module) -> torch.Tensor:
    """Return the gradient of a loss by a module's parameters alone, as one vector; 0 by those it does not use."""
    gradients = torch.autograd.grad(loss, list(module.parameters()), materialize_grads=True)
    return torch.cat([each.flatten() for each in gradients])
