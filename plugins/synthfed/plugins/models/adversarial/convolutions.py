"""The two networks of GANs for arrays: a convolutional critic, and a generator that refines draws of the anchor.

Never mixes the records of a batch: GroupNorm in place of BatchNorm, in both.

Both follow Radford, Metz and Chintala (2016, arXiv:1511.06434): strided convolutions down, fractionally
strided ones up, no pooling, leaky ReLU. One class serves series, images and volumes.
"""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional

from ..dropout import dropped
from .critics import Critic

SLOPE: Final = 0.2
OUTSIDE: Final = 0.1  # slope of a number beyond the bounds, so that it can find its way back
DOWN: Final[dict[int, Any]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
UP: Final[dict[int, Any]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
KERNEL: Final = 4  # twice the stride, so that every number meets as many weights as its neighbours
GROUPS: Final = 4


class ArrayCritic(Critic):
    """Scores an array together with its labels: strided convolutions, then features weighed by the labels.

    Weighing stands for the projection of the label onto the features (Miyato and Koyama 2018,
    arXiv:1802.05637), in a form in which the last layer stays a dense one on features.
    """

    def __init__(self, shape: Sequence[int], labels: int, channels: int, dropout: float) -> None:
        """Build for arrays of a shape ``(channels, ...)`` and ``labels`` label cells."""
        super().__init__()
        self.shape, self.dropout = tuple(shape), dropout
        conv = DOWN[len(shape) - 1]
        self.first = conv(shape[0], channels, KERNEL, 2, 1)
        self.second = conv(channels, 2 * channels, KERNEL, 2, 1)
        self.second_norm = nn.GroupNorm(GROUPS, 2 * channels)
        self.third = conv(2 * channels, 2 * channels, 3, 2, 1)
        self.third_norm = nn.GroupNorm(GROUPS, 2 * channels)
        size = 2 * channels
        for axis in shape[1:]:
            size *= _halved(axis // 2 // 2)
        self.label = nn.Linear(labels, size, bias=False)
        self.exit = nn.Linear(size, 1)
        self.coins = size if dropout > 0 else 0

    def features(self, batch: torch.Tensor, coins: torch.Tensor | None = None) -> torch.Tensor:
        """Return the last feature maps, flat, each weighed by the labels, shape ``(rows, features)``."""
        numbers = self.exit.in_features
        arrays, labels = _split(batch, self.shape)
        signal = functional.leaky_relu(self.first(arrays), SLOPE)
        signal = functional.leaky_relu(self.second_norm(self.second(signal)), SLOPE)
        signal = functional.leaky_relu(self.third_norm(self.third(signal)), SLOPE)
        flat = signal.reshape(len(batch), numbers) * (1 + self.label(labels))
        return dropped(flat, coins if self.coins else None, self.dropout)


class Refiner(nn.Module):
    """Adds to a draw of the anchor what statistics cannot tell; at first nothing, so that it starts as the anchor.

    The draw goes down through strided convolutions, meets noise and its labels, and comes up again
    through fractionally strided ones beside what it was on that scale (Ronneberger, Fischer and Brox
    2015, arXiv:1505.04597). The last layer starts at zero.
    """

    def __init__(self, shape: Sequence[int], labels: int, channels: int, latent: int) -> None:
        """Build for arrays of a shape ``(channels, ...)``, ``labels`` label cells and ``latent`` noise numbers."""
        super().__init__()
        self.shape, self.latent = tuple(shape), latent
        conv, up = DOWN[len(shape) - 1], UP[len(shape) - 1]
        self.enter = nn.Linear(labels + latent, channels)
        self.down = conv(shape[0], channels, KERNEL, 2, 1)
        self.deeper = conv(channels, 2 * channels, KERNEL, 2, 1)
        self.deeper_norm = nn.GroupNorm(GROUPS, 2 * channels)
        self.middle = conv(3 * channels, 2 * channels, 3, 1, 1)
        self.middle_norm = nn.GroupNorm(GROUPS, 2 * channels)
        self.up = up(2 * channels, channels, KERNEL, 2, 1)
        self.upper = up(2 * channels, channels, KERNEL, 2, 1)
        self.last = conv(channels + shape[0], shape[0], 3, 1, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, draws: torch.Tensor, noise: torch.Tensor, dropout: torch.Tensor | None = None) -> torch.Tensor:
        """Return refined records within the bounds, shape ``(rows, width)``, their labels those of the draws.

        Args:
            draws: encoded records of the anchor, shape ``(rows, width)``.
            noise: shape ``(rows, latent)``.
            dropout: factors of the middle channels, shape ``(rows, 2 * channels)``; None drops nothing.
        """
        arrays, labels = _split(draws, self.shape)
        first = functional.leaky_relu(self.down(arrays), SLOPE)
        second = functional.leaky_relu(self.deeper_norm(self.deeper(first)), SLOPE)
        told = self.enter(torch.cat([labels, noise], 1))
        told = told.reshape(*told.shape, *[1] * (len(self.shape) - 1)).expand(-1, -1, *second.shape[2:])
        middle = functional.leaky_relu(self.middle_norm(self.middle(torch.cat([second, told], 1))), SLOPE)
        if dropout is not None:
            middle = middle * dropout.reshape(*dropout.shape, *[1] * (len(self.shape) - 1))
        signal = functional.leaky_relu(self.up(middle, output_size=first.shape[2:]), SLOPE)
        signal = functional.leaky_relu(self.upper(torch.cat([signal, first], 1), output_size=arrays.shape[2:]), SLOPE)
        refined = held(arrays + self.last(torch.cat([signal, arrays], 1)))
        return torch.cat([refined.flatten(1), labels], 1)


def held(numbers: torch.Tensor) -> torch.Tensor:
    """Return numbers clamped to [-1, 1] that keep a little of their gradient outside."""
    inside = numbers.clamp(-1, 1)
    beyond = OUTSIDE * (numbers - inside)
    return inside + beyond - beyond.detach()


def _split(records: torch.Tensor, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return arrays ``(rows, *shape)`` and label cells ``(rows, labels)`` of encoded records."""
    numbers = torch.Size(shape).numel()
    return records[:, :numbers].reshape(len(records), *shape), records[:, numbers:]


def _halved(size: int) -> int:
    return (size + 1) // 2
