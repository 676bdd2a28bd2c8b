"""Adam on flat parameter vectors, and parameters as one vector.

Never keeps more than can be saved as two vectors and a count.
"""

from dataclasses import dataclass
from typing import Final, Self

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
        scale = (self.square / (1 - SQUARE_DECAY**self.count)).sqrt_().add_(1e-8)
        flat = flatten(module).sub_(self.mean / scale, alpha=rate / (1 - decay**self.count))
        set_flat(module, flat)


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
