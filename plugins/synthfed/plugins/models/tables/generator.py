"""What every generator of tables does: from latents to the probabilities of every column's cells.

Never sees a real record: at the coordinator only released sums, weights and fakes meet it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from synthfed.protocols.errors import ConfigError, LocalProtocolError


class Generator(nn.Module, ABC):
    """Gives each latent the logits of every column's cells; given its latent, a record's columns are independent.

    Attributes:
        sizes: cells of each column.
        fit_rate: a first learning rate that fits it to an anchor, if a study sets none.
        marginals_weight: of a marginal's square error against a moment's in that fit, both in units of the noise.
        kinds: how many latents there are, where they can be counted; 0 where they are continuous.
        start: the logits that every latent has before it is fitted, shape ``(width,)``.
    """

    fit_rate: ClassVar[float]
    marginals_weight: ClassVar[float]
    kinds: int = 0
    start: torch.Tensor

    def __init__(self, sizes: Sequence[int]) -> None:
        """Generate columns with ``sizes`` cells."""
        super().__init__()
        self.sizes = list(sizes)
        self.register_buffer("start", torch.zeros(sum(sizes)))

    @abstractmethod
    def latents(self, rows: int, rng: torch.Generator, chances: torch.Tensor | None = None) -> torch.Tensor:
        """Return fresh inputs, shape ``(rows, inputs)``; ``chances`` are those of records that meet conditions."""

    def chances(self, shift: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Return how likely each input is of a record whose values lie in parts of the cells.

        Only where inputs can be counted; a generator without `Model.conditions` is not asked.

        Args:
            shift: what sampling adds to the logits, shape ``(width,)``.
            limits: the logarithm of the part of every cell that is allowed, shape ``(width,)``.

        Returns:
            Probabilities in float64, in the order of the inputs.

        Raises:
            ConfigError: there is no such record.
        """
        raise LocalProtocolError("a generator whose inputs cannot be counted was asked to meet conditions")

    @abstractmethod
    def path(self, steps: int, rng: torch.Generator) -> torch.Tensor:
        """Return inputs on the straight way between two fresh ones, shape ``(steps, inputs)``."""

    @abstractmethod
    def spread(self, rng: torch.Generator) -> None:
        """Let the logits depend on the latent: where columns are independent, no moment says which way to go."""

    @abstractmethod
    def forward(self, latents: torch.Tensor, rng: torch.Generator | None = None, dropout: float = 0.0) -> torch.Tensor:
        """Return logits, shape ``(rows, width)``; ``dropout`` is the part of hidden units dropped by ``rng``."""

    @abstractmethod
    def logits_by_cell(self, latents: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """Return logits plus ``shift``, shape ``(width, rows)``: a cell's lie together."""

    def aim(self, marginals: torch.Tensor, joint: torch.Tensor | None) -> None:  # noqa: ARG002
        """Start at released probabilities.

        Args:
            marginals: of every cell, all above 0, shape ``(width,)``.
            joint: of the combinations of conditions, for a generator that takes several; otherwise None.
        """
        self.start.copy_(marginals.log())

    def fit_loss(self, latents: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Return what the fit of the anchor minimises beside its misfits; nothing here.

        Args:
            latents: what the cells were made from.
            expected: their probabilities, shape ``(rows, width)``.
        """
        return torch.zeros(())

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


def normalised(scores: torch.Tensor) -> torch.Tensor:
    """Return the probabilities with these logarithms up to a constant, however small; float64, of the same shape.

    Raises:
        ConfigError: all of them are 0.
    """
    if not scores.isfinite().any():
        raise ConfigError("the model gives such records the probability 0; ask for fewer or wider conditions")
    return torch.softmax(scores.double(), 0)
