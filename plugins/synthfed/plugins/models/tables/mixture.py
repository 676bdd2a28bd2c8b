"""A generator of tables that is a mixture of products: its latent is which component a record comes from.

Never draws a component more often than another: the components' differences carry the weights.

A mixture of products with many components can match any two-way moments (Vietri et al. 2022,
arXiv:2209.07400, fit one to private marginals), and the moments of all components together are exact
sums, so that its fit has no chance in it, where a network's sees other draws in every step.
"""

from collections.abc import Sequence
from typing import ClassVar, Final

import torch
from torch import nn

from .generator import Generator, normalised

SPREAD: Final = 0.3  # of the first logits: components that start far apart have far to go


class MixtureGenerator(Generator):
    """A table of logits, one row a component.

    A latent has three numbers: a component, another one, and how far the record is from the first to
    the second; for records, as for all training, that is 0.

    Attributes:
        table: what each component adds to ``start``, shape ``(components, width)``.
    """

    fit_rate: ClassVar[float] = 0.15
    marginals_weight: ClassVar[float] = 3.0

    def __init__(self, components: int, sizes: Sequence[int]) -> None:
        """Mix ``components`` products over columns with ``sizes`` cells; at first they are all alike."""
        super().__init__(sizes)
        self.kinds = components
        self.table = nn.Parameter(torch.zeros(components, sum(sizes)))

    def latents(self, rows: int, rng: torch.Generator, chances: torch.Tensor | None = None) -> torch.Tensor:
        """Return components in any order, each as often as its chance says up to one, shape ``(rows, 3)``."""
        if chances is None:
            drawn = torch.randperm(self.kinds, generator=rng)[torch.randperm(rows, generator=rng) % self.kinds]
        else:
            # Equal steps through the chances from a random start: every step is a draw, all together are even.
            levels = (torch.randperm(rows, generator=rng) + torch.rand(1, generator=rng, dtype=torch.float64)) / rows
            reached = chances.cumsum(0)
            drawn = torch.searchsorted(reached / reached[-1], levels, right=True).clamp_max(self.kinds - 1)
        return _between(drawn, drawn, torch.zeros(rows))

    def chances(self, shift: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:
        """Return how likely each component is, by Bayes' rule: its columns are independent, and all are alike before.

        In logarithms, so that a combination may be as rare as it likes.
        """
        logits = (self.table + (self.start + shift)).double().T
        scores = torch.zeros(self.kinds, dtype=torch.float64)
        parts = (each.split_with_sizes(self.sizes) for each in (logits, limits[:, None]))
        for block, limit in zip(*parts, strict=True):
            if limit.any():
                scores += torch.logsumexp(block + limit, 0) - torch.logsumexp(block, 0)
        return normalised(scores)

    def path(self, steps: int, rng: torch.Generator) -> torch.Tensor:
        """Return the way from one component to another, on the straight line of their logits, shape ``(steps, 3)``."""
        ends = torch.randint(self.kinds, (2,), generator=rng)
        return _between(ends[0].expand(steps), ends[1].expand(steps), torch.linspace(0, 1, steps))

    def spread(self, rng: torch.Generator) -> None:
        """Draw what the components add."""
        nn.init.normal_(self.table, std=SPREAD, generator=rng)

    def forward(
        self,
        latents: torch.Tensor,
        rng: torch.Generator | None = None,  # noqa: ARG002
        dropout: float = 0.0,  # noqa: ARG002
    ) -> torch.Tensor:
        """Return logits, shape ``(rows, width)``; there are no hidden units to drop."""
        return self._added(latents) + self.start

    def logits_by_cell(self, latents: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """Return logits plus ``shift``, shape ``(width, rows)``: a cell's lie together."""
        return (self._added(latents) + (self.start + shift)).T.contiguous()

    def _added(self, latents: torch.Tensor) -> torch.Tensor:
        first, part = self.table[latents[:, 0].long()], latents[:, 2:]
        return torch.lerp(first, self.table[latents[:, 1].long()], part) if part.any() else first


def _between(first: torch.Tensor, second: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    # A float32 counts exactly to 2^24, far beyond any number of components.
    return torch.stack([first.float(), second.float(), part], 1)
