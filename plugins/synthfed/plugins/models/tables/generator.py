"""The generator of tables: from latent vectors to the cells of every column.

Never sees a real record: at the coordinator only released sums, weights and fakes meet it.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from ...api import Given
from ..dropout import dropped


class Generator(nn.Module):
    """A residual MLP from latent vectors to the logits of every column's cells.

    Its last layer starts at zero, so that at first every latent gives the logits ``start``.

    Attributes:
        latent: how many numbers of its input are noise; a subclass may append others.
        sizes: cells of each column.
    """

    start: torch.Tensor

    def __init__(self, latent: int, hidden: int, depth: int, sizes: Sequence[int], appended: int = 0) -> None:
        """Build for columns with ``sizes`` cells; ``appended`` numbers follow the noise in its input."""
        super().__init__()
        self.latent, self.sizes = latent, list(sizes)
        self.entry = nn.Linear(latent + appended, hidden)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.SiLU()) for _ in range(depth)
        )
        self.exit = nn.Linear(hidden, sum(sizes))
        nn.init.zeros_(self.exit.weight)
        nn.init.zeros_(self.exit.bias)
        self.register_buffer("start", torch.zeros(sum(sizes)))

    def aim(self, marginals: torch.Tensor, joint: torch.Tensor | None) -> None:  # noqa: ARG002
        """Start at released probabilities.

        Args:
            marginals: of every cell, all above 0, shape ``(width,)``.
            joint: of the combinations of conditions, for a generator that takes several; otherwise None.
        """
        self.start.copy_(marginals.log())

    def latents(self, rows: int, rng: torch.Generator, given: Given | None = None) -> torch.Tensor:  # noqa: ARG002
        """Return fresh inputs, shape ``(rows, latent + appended)``; ``given`` is for those that take conditions."""
        return torch.randn(rows, self.latent, generator=rng)

    def path(self, steps: int, rng: torch.Generator) -> torch.Tensor:
        """Return inputs on the straight line between two fresh ones, shape ``(steps, latent + appended)``."""
        ends = self.latents(2, rng)
        return torch.lerp(ends[:1], ends[1:], torch.linspace(0, 1, steps)[:, None])

    def spread(self, rng: torch.Generator) -> None:
        """Let the logits depend on the latent: where columns are independent, no moment says which way to go."""
        nn.init.normal_(self.exit.weight, std=self.exit.in_features**-0.5, generator=rng)

    def forward(self, latents: torch.Tensor, rng: torch.Generator | None = None, dropout: float = 0.0) -> torch.Tensor:
        """Return logits, shape ``(rows, width)``; ``dropout`` is the part of hidden units dropped by ``rng``."""
        logits: torch.Tensor = self.exit(self._hidden(latents, rng, dropout)) + self.start
        return logits

    def logits_by_cell(self, latents: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """Return logits plus ``shift``, shape ``(width, rows)``: a cell's lie together."""
        hidden = self._hidden(latents)
        return torch.addmm((self.exit.bias + self.start + shift)[:, None], self.exit.weight, hidden.T)

    def fit_loss(self, latents: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Return what the fit of the anchor minimises beside its misfits; nothing here.

        Args:
            latents: what the cells were made from.
            expected: their probabilities, shape ``(rows, width)``.
        """
        return torch.zeros(())

    def _hidden(self, latents: torch.Tensor, rng: torch.Generator | None = None, dropout: float = 0.0) -> torch.Tensor:
        signal: torch.Tensor = self.entry(latents)
        for block in self.blocks:
            coins = None if rng is None or dropout == 0 else torch.rand(signal.shape, generator=rng)
            signal = signal + dropped(block(signal), coins, dropout)
        return signal

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
