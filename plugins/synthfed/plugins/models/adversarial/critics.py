"""Critics: what every one offers the adversarial engine, the one for tables, and what bounds their weights.

Never mixes the records of a batch and never tosses a coin of its own: dropout uses the coins it is given.
"""

from abc import ABC, abstractmethod
from itertools import pairwise
from typing import Final

import torch
from torch import nn
from torch.nn import functional

from ..dropout import dropped

MIXING_COINS: Final = 2


class Critic(nn.Module, ABC):
    """Scores encoded records. A family's critic computes features; the last layer is a dense one.

    Every layer must have a per-record gradient in the core, be used once in a pass and treat each
    record alone: dense, convolutional, GroupNorm and LayerNorm layers do.

    Attributes:
        coins: how many uniform numbers a record's pass takes when it trains, 0 without dropout.
        exit: the last layer, from features to one score.
    """

    coins: int
    exit: nn.Linear

    @abstractmethod
    def features(self, batch: torch.Tensor, coins: torch.Tensor | None = None) -> torch.Tensor:
        """Return each record's features, shape ``(rows, features)``; without coins nothing is dropped.

        Args:
            batch: encoded records, shape ``(rows, width)``.
            coins: uniform numbers in (0, 1), shape ``(rows, self.coins)``.
        """

    def forward(self, batch: torch.Tensor, coins: torch.Tensor | None = None) -> torch.Tensor:
        """Return each record's score, higher for more real, shape ``(rows, 1)``."""
        scores: torch.Tensor = self.exit(self.features(batch, coins))
        return scores


class DenseCritic(Critic):
    """An MLP on one-hot records.

    Dense layers on flat input only: their per-record gradient norms cost no per-record gradients.
    """

    view: torch.Tensor | None

    def __init__(
        self, width: int, hidden: int, depth: int, dropout: float = 0.0, view: torch.Tensor | None = None
    ) -> None:
        """Build for records of ``width`` cells.

        Args:
            width: length of a record.
            hidden: units of each layer.
            depth: number of hidden layers.
            dropout: the part of hidden units dropped in training.
            view: fixed map that records pass first, of public origin, shape ``(width, inputs)``; None for none.
        """
        super().__init__()
        self.register_buffer("view", view, persistent=False)
        sizes = [width if view is None else view.shape[1], *[hidden] * depth]
        self.layers = nn.ModuleList(nn.Linear(fan_in, fan_out) for fan_in, fan_out in pairwise(sizes))
        self.exit = nn.Linear(hidden, 1)
        self.dropout = dropout
        self.coins = hidden * depth if dropout > 0 else 0

    def features(self, batch: torch.Tensor, coins: torch.Tensor | None = None) -> torch.Tensor:
        """Return the last hidden layer, shape ``(rows, hidden)``."""
        batch = batch if self.view is None else batch @ self.view
        tossed = [None] * len(self.layers) if coins is None or not self.coins else coins.chunk(len(self.layers), 1)
        for layer, each in zip(self.layers, tossed, strict=True):
            batch = dropped(functional.leaky_relu(layer(batch), 0.2), each, self.dropout)
        return batch


class Mixed(nn.Module):
    """A critic that sees each record mixed with a public fake (mixup, Zhang et al. 2018, arXiv:1710.09412).

    Mixing two records would couple their units. Here the partner is a fake that everyone knows, and
    which one and how much of it is up to the unit's own coins, so a record's loss depends on its unit alone.

    Attributes:
        critic: whose gradient is asked for.
        partners: encoded fakes, shape ``(partners, width)``; they come with the payload and are never trained.
    """

    def __init__(self, critic: Critic, partners: torch.Tensor, most: float) -> None:
        """Mix in a part of a fake that is uniform up to ``most``."""
        super().__init__()
        self.critic, self.most = critic, most
        self.partners = nn.Parameter(partners, requires_grad=False)

    def forward(self, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
        """Return the score of each mixed record and the fake's part in it, shape ``(rows, 2)``.

        Args:
            batch: encoded records, shape ``(rows, width)``.
            coins: two for the mixing, then the critic's, shape ``(rows, MIXING_COINS + critic.coins)``.
        """
        part = self.most * coins[:, :1]
        chosen = (coins[:, 1] * len(self.partners)).long().clamp_max(len(self.partners) - 1)
        mixed = torch.lerp(batch, self.partners[chosen], part)
        return torch.cat([self.critic(mixed, coins[:, MIXING_COINS:]), part], 1)


@torch.no_grad()
def limit_spectra(critic: nn.Module, limit: float) -> None:
    """Scale every weight down until its spectral norm is at most ``limit``.

    This is the projected form of spectral normalisation (Gouk et al. 2021, arXiv:1804.04368, after
    Miyato et al. 2018, arXiv:1802.05957): it acts on weights between steps, at the coordinator, so
    that sites get plain weights and no layer has a hidden dependence that per-record gradients would
    miss. A convolution counts as the matrix of its kernels, as in Miyato et al.
    """
    for weight in critic.parameters():
        if weight.dim() > 1:
            norm = torch.linalg.matrix_norm(weight.flatten(1), ord=2)
            weight.div_((norm / limit).clamp_min(1.0))


@torch.no_grad()
def limit_weights(critic: nn.Module, limit: float) -> None:
    """Clip every parameter to ``[-limit, limit]`` (Arjovsky et al. 2017, arXiv:1701.07875)."""
    for each in critic.parameters():
        each.clamp_(-limit, limit)
