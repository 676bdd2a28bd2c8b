"""A generator of tables that is a network: a residual MLP from noise to the logits of every cell.

Never keeps a state between passes.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from ..dropout import dropped
from .generator import Generator


class NetworkGenerator(Generator):
    """A residual MLP from latent vectors to the logits of every column's cells.

    Its last layer starts at zero, so that at first every latent gives the logits ``start``.

    Attributes:
        latent: how many numbers of its input are noise; a subclass may append others.
    """

    fit_rate: ClassVar[float] = 1e-2
    marginals_weight: ClassVar[float] = 0.1  # a batch's means are off by chance: more would drown the moments

    def __init__(self, latent: int, hidden: int, depth: int, sizes: Sequence[int], appended: int = 0) -> None:
        """Build for columns with ``sizes`` cells; ``appended`` numbers follow the noise in its input."""
        super().__init__(sizes)
        self.latent = latent
        self.entry = nn.Linear(latent + appended, hidden)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.SiLU()) for _ in range(depth)
        )
        self.exit = nn.Linear(hidden, sum(sizes))
        nn.init.zeros_(self.exit.weight)
        nn.init.zeros_(self.exit.bias)

    def latents(self, rows: int, rng: torch.Generator, chances: torch.Tensor | None = None) -> torch.Tensor:  # noqa: ARG002
        """Return normal noise, shape ``(rows, latent)``."""
        return torch.randn(rows, self.latent, generator=rng)

    def path(self, steps: int, rng: torch.Generator) -> torch.Tensor:
        """Return inputs on the straight line between two fresh ones, shape ``(steps, latent + appended)``."""
        ends = self.latents(2, rng)
        return torch.lerp(ends[:1], ends[1:], torch.linspace(0, 1, steps)[:, None])

    def spread(self, rng: torch.Generator) -> None:
        """Draw the last layer's weights."""
        nn.init.normal_(self.exit.weight, std=self.exit.in_features**-0.5, generator=rng)

    def forward(self, latents: torch.Tensor, rng: torch.Generator | None = None, dropout: float = 0.0) -> torch.Tensor:
        """Return logits, shape ``(rows, width)``; ``dropout`` is the part of hidden units dropped by ``rng``."""
        logits: torch.Tensor = self.exit(self._hidden(latents, rng, dropout)) + self.start
        return logits

    def logits_by_cell(self, latents: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """Return logits plus ``shift``, shape ``(width, rows)``: a cell's lie together."""
        hidden = self._hidden(latents)
        return torch.addmm((self.exit.bias + self.start + shift)[:, None], self.exit.weight, hidden.T)

    def _hidden(self, latents: torch.Tensor, rng: torch.Generator | None = None, dropout: float = 0.0) -> torch.Tensor:
        signal: torch.Tensor = self.entry(latents)
        for block in self.blocks:
            coins = None if rng is None or dropout == 0 else torch.rand(signal.shape, generator=rng)
            signal = signal + dropped(block(signal), coins, dropout)
        return signal
