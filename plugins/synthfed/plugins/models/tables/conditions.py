"""Conditions of a table's generator: which columns it takes as input, how their categories go together, its input.

Never estimates from records how categories go together: that is a declared, clipped and noised sum.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import Categorical, Column
from synthfed.protocols.sums import Sum

from ...api import Array, Given
from .generator import normalised
from .network import NetworkGenerator

CONDITIONS: Final = "conditions"
MAX_COMBINATIONS: Final = 4096
FAR: Final = 1e4  # below every other logit: its softmax is exactly 0


class Conditions:
    """The chosen categorical columns and all combinations of their categories.

    Attributes:
        names: of the columns.
        cells: the places of their cells in an encoded record, column after column.
        sizes: cells of each.
        one_hot: every combination, shape ``(combinations, len(cells))``.
    """

    def __init__(self, columns: Sequence[Column], sizes: Sequence[int], chosen: Sequence[str]) -> None:
        """Look up the chosen columns among those of a table with ``sizes`` cells.

        Raises:
            ConfigError: one is not there, named twice or not categorical, or there are too many combinations.
        """
        found = {column.name: (column, place) for place, column in enumerate(columns)}
        for name in chosen:
            if name not in found or not isinstance(found[name][0], Categorical) or chosen.count(name) > 1:
                raise ConfigError(
                    f"{name!r} cannot be a condition; name categorical columns, each once", where="model.options"
                )
        places = [found[name][1] for name in chosen]
        self.names, self.sizes = tuple(chosen), tuple(sizes[place] for place in places)
        if math.prod(self.sizes) > MAX_COMBINATIONS:
            raise ConfigError(
                f"the conditions have {math.prod(self.sizes):,} combinations, more than {MAX_COMBINATIONS:,}; "
                "name fewer columns",
                where="model.options",
            )
        first = np.cumsum([0, *sizes])
        self.cells = [int(cell) for place in places for cell in range(first[place], first[place + 1])]
        codes = np.stack(np.unravel_index(np.arange(math.prod(self.sizes)), self.sizes), axis=1)
        self.one_hot = np.concatenate([np.eye(size)[codes[:, i]] for i, size in enumerate(self.sizes)], axis=1)

    @property
    def is_joint(self) -> bool:
        """Whether there are several columns, so that their marginals do not tell how they go together."""
        return len(self.names) > 1

    def sum(self, rounds: int, share: float) -> Sum:
        """Return the sum that counts the combinations."""
        return Sum(CONDITIONS, "statistic", len(self.one_hot), 1.0, 1.0, rounds, share)

    def contributions(self, batch: Array) -> Array:
        """Return each encoded record's combination as 0 and one 1, shape ``(rows, combinations)``."""
        return np.asarray(batch[:, self.cells] @ self.one_hot.T > len(self.names) - 0.5, dtype=np.float64)


class ConditionalGenerator(NetworkGenerator):
    """A generator that is told the categories of some columns and fills in the others.

    Its input is noise, followed by the one-hot categories of the conditions; its logits leave those
    categories no choice.
    """

    odds: torch.Tensor
    combinations: torch.Tensor
    free: torch.Tensor
    pinned: torch.Tensor

    def __init__(self, latent: int, hidden: int, depth: int, sizes: Sequence[int], *, conditions: Conditions) -> None:
        """Build for columns with ``sizes`` cells; every combination is as likely as another until ``aim``."""
        width, inputs = sum(sizes), len(conditions.cells)
        super().__init__(latent, hidden, depth, sizes, inputs)
        self.conditions = conditions
        self.register_buffer("combinations", torch.tensor(conditions.one_hot, dtype=torch.float32))
        self.register_buffer("odds", torch.full((len(conditions.one_hot),), 1.0 / len(conditions.one_hot)))
        self.register_buffer("free", torch.ones(width, dtype=torch.bool))
        self.register_buffer("pinned", torch.zeros(inputs, width))
        self.free[conditions.cells] = False
        self.pinned[range(inputs), conditions.cells] = FAR

    def aim(self, marginals: torch.Tensor, joint: torch.Tensor | None) -> None:
        """Start at released marginals, and draw conditions as they were released."""
        super().aim(marginals, joint)
        self.odds.copy_(marginals[self.conditions.cells] if joint is None else joint)

    def latents(
        self, rows: int, rng: torch.Generator, chances: torch.Tensor | None = None, balance: float = 0.0
    ) -> torch.Tensor:
        """Return noise and drawn conditions, shape ``(rows, latent + appended)``.

        Args:
            rows: how many.
            rng: where the chance comes from.
            chances: of every combination; those that were released if None.
            balance: the part of them whose combination is drawn evenly, however rare it is.
        """
        odds = self.odds if chances is None else chances
        odds = torch.lerp(odds, torch.full_like(odds, 1.0 / len(odds)), balance)
        chosen = torch.multinomial(odds, rows, replacement=True, generator=rng)
        return torch.cat([super().latents(rows, rng), self.combinations[chosen]], 1)

    def chances(self, shift: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:  # noqa: ARG002  (shifts move none)
        """Return how likely each combination is among those that limits leave."""
        left = torch.where(self.combinations > 0, limits[self.conditions.cells], 0.0).sum(1)
        return normalised(self.odds.double().log() + left)

    def weights(self, latents: torch.Tensor, balance: float) -> torch.Tensor:
        """Return how much each balanced draw counts so that all together stand for unbalanced ones; the mean is 1."""
        chosen = (latents[:, self.latent :] @ self.combinations.T).argmax(1)
        even = 1.0 / len(self.odds)
        weights = (self.odds / torch.lerp(self.odds, torch.full_like(self.odds, even), balance))[chosen]
        return weights / weights.mean()

    def path(self, steps: int, rng: torch.Generator) -> torch.Tensor:
        """Return inputs on a straight line through the noise, the conditions those of its start."""
        line = super().path(steps, rng)
        return torch.cat([line[:, : self.latent], line[:1, self.latent :].expand(steps, -1)], 1)

    def forward(self, latents: torch.Tensor, rng: torch.Generator | None = None, dropout: float = 0.0) -> torch.Tensor:
        """Return logits, shape ``(rows, width)``: 0 for a given category and far less for its column's others."""
        return torch.where(self.free, super().forward(latents, rng, dropout), self._fixed(latents))

    def logits_by_cell(self, latents: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """Return logits plus ``shift``, shape ``(width, rows)``; a shift moves no condition."""
        logits = super().logits_by_cell(latents, shift)
        return torch.where(self.free[:, None], logits, self._fixed(latents).T)

    def _fixed(self, latents: torch.Tensor) -> torch.Tensor:
        return latents[:, self.latent :] @ self.pinned - FAR


def check_given(given: Given, conditions: Sequence[str]) -> None:
    """Refuse what sampling cannot fix, before a record is drawn.

    Raises:
        ConfigError: a column is none of the conditions.
    """
    for name in given:
        if name not in conditions:
            known = ", ".join(conditions) or "none"
            raise ConfigError(f"{name!r} cannot be fixed in sampling; this model's conditions: {known}", where="given")
