"""The two networks of the tabular GAN, and Adam on flat parameter vectors.

Never sees a real record outside a site: at the coordinator only weights and fakes meet these networks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import torch
from torch import nn
from torch.nn import functional


def build_critic(width: int, hidden: int, depth: int) -> nn.Sequential:
    """Return an MLP that scores one-hot records, shape ``(rows, width)`` to ``(rows, 1)``.

    Dense layers on flat input only: their per-record gradient norms cost no per-record gradients,
    and no layer mixes the records of a batch.
    """
    sizes = [width, *[hidden] * depth]
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 1))


def clipped_gradient(
    critic: nn.Sequential, batch: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor], clip_norm: float
) -> torch.Tensor:
    """Return the sum of every record's gradient clipped to an L2 norm, shape ``(parameters,)``.

    A dense layer's gradient for one record is the outer product of its input and the gradient at
    its output, so its norm is the product of theirs (Goodfellow 2015, arXiv:1510.01799).

    Args:
        critic: as `build_critic` makes it.
        batch: shape ``(rows, width)``.
        loss: maps scores ``(rows, 1)`` to losses of the same shape.
        clip_norm: the bound on each record's gradient.
    """
    inputs, outputs, signal = [], [], batch
    for layer in critic:
        before, signal = signal, layer(signal)
        if isinstance(layer, nn.Linear):
            inputs.append(before.detach())
            outputs.append(signal)
    backward = torch.autograd.grad(loss(signal).sum(), outputs)
    squares = [(x.square().sum(1) + 1) * g.square().sum(1) for x, g in zip(inputs, backward, strict=True)]
    factors = (clip_norm / torch.stack(squares).sum(0).sqrt().clamp_min(1e-12)).clamp_max(1.0)[:, None]
    parts = []
    for x, g in zip(inputs, backward, strict=True):
        clipped = g * factors
        parts += [(clipped.T @ x).flatten(), clipped.sum(0)]
    return torch.cat(parts)


class Generator(nn.Module):
    """A residual MLP from latent vectors to the logits of every column's cells.

    Its last layer starts at zero, so that at first every latent gives the logits ``start``.
    """

    start: torch.Tensor

    def __init__(self, latent: int, hidden: int, depth: int, sizes: Sequence[int]) -> None:
        """Build for columns with ``sizes`` cells."""
        super().__init__()
        self.latent, self.sizes = latent, list(sizes)
        self.entry = nn.Linear(latent, hidden)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.SiLU()) for _ in range(depth)
        )
        self.exit = nn.Linear(hidden, sum(sizes))
        nn.init.zeros_(self.exit.weight)
        nn.init.zeros_(self.exit.bias)
        self.register_buffer("start", torch.zeros(sum(sizes)))

    def spread(self, rng: torch.Generator) -> None:
        """Let the logits depend on the latent: where columns are independent, no moment says which way to go."""
        nn.init.normal_(self.exit.weight, std=self.exit.in_features**-0.5, generator=rng)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """Return logits, shape ``(rows, width)``."""
        logits: torch.Tensor = self.exit(self._hidden(latent)) + self.start
        return logits

    def _hidden(self, latent: torch.Tensor) -> torch.Tensor:
        signal: torch.Tensor = self.entry(latent)
        for block in self.blocks:
            signal = signal + block(signal)
        return signal

    def logits(self, rows: int, rng: torch.Generator) -> torch.Tensor:
        """Return the logits of fresh latent vectors, shape ``(rows, width)``."""
        logits: torch.Tensor = self(torch.randn(rows, self.latent, generator=rng))
        return logits

    def logits_by_cell(self, rows: int, rng: torch.Generator, shift: torch.Tensor) -> torch.Tensor:
        """Return the logits of fresh latent vectors plus ``shift``, shape ``(width, rows)``: a cell's lie together."""
        hidden = self._hidden(torch.randn(rows, self.latent, generator=rng))
        return torch.addmm((self.exit.bias + self.start + shift)[:, None], self.exit.weight, hidden.T)

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Return each column's softmax, side by side, shape ``(rows, width)``."""
        return torch.cat([torch.softmax(block, 1) for block in logits.split_with_sizes(self.sizes, 1)], 1)

    def cells(self, logits: torch.Tensor, rng: torch.Generator, temperature: float) -> torch.Tensor:
        """Return drawn one-hot records with straight-through gradients, shape ``(rows, width)``.

        The cells are exact draws; the gradient is that of the softmax at ``temperature`` (Jang, Gu
        and Poole 2017, arXiv:1611.01144).
        """
        scores = logits - torch.empty_like(logits).exponential_(generator=rng).clamp_min(1e-30).log()
        blocks = scores.detach().split_with_sizes(self.sizes, 1)
        hard = torch.cat([functional.one_hot(block.argmax(1), block.shape[1]) for block in blocks], 1)
        soft = self.probabilities(scores / temperature)
        return hard + soft - soft.detach()


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


SQUARE_DECAY = 0.99


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
    """Return the gradient of a loss by a module's parameters alone, as one vector."""
    return torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(module.parameters()))])
