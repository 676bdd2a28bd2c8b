"""How long the gradients are that the sites clip: a public factor of the loss, so that few are cut.

Never looks at a real record's norm: the factor follows from records of the anchor.

Clipping shortens the gradients of unusual records and so teaches that they are rarer than they are.
Longer bounds cost nothing where the optimiser does not care for a gradient's length: noise and signal
grow alike. As the clip norm is a term of the study, the loss is scaled instead.
"""

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from ..adam import flat_gradient

if TYPE_CHECKING:
    from .likelihood import Family

LEAST: Final = 1e-4
MOST: Final = 1e4  # larger numbers no site takes in a payload
UNCLIPPED: Final = 0.9  # part of the anchor's records whose gradients are not cut


class Factor(nn.Module):
    """What losses are multiplied by; nobody trains it."""

    def __init__(self) -> None:
        """Start with losses as they are."""
        super().__init__()
        self.value = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, losses: torch.Tensor) -> torch.Tensor:
        """Return the scaled losses, shape ``(rows,)``."""
        return self.value * losses


class Scaled(nn.Module):
    """A network, and the factor of its losses; a coordinator's payload has the factor first."""

    def __init__(self, network: nn.Module) -> None:
        """Start with losses as they are."""
        super().__init__()
        self.factor = Factor()
        self.network = network

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Return what the network does."""
        return self.network(*inputs)


def scale_for(
    family: "Family[Any]",
    network: nn.Module,
    weights: nn.Module,
    records: torch.Tensor,
    coins: torch.Tensor,
    clip_norm: float,
) -> float:
    """Return the factor with which the gradients of most public records are no longer than ``clip_norm``.

    Args:
        family: whose loss it is.
        network: at its present weights.
        weights: the part of it that is trained.
        records: as the loss takes them, shape ``(rows, width)``.
        coins: shape ``(rows, coins)``.
        clip_norm: of the declared sum.
    """
    losses = (family.loss(network, row[None], coin[None]).sum() for row, coin in zip(records, coins, strict=True))
    norms = torch.stack([flat_gradient(loss, weights).norm() for loss in losses])
    factor = clip_norm / max(float(norms.quantile(UNCLIPPED)), 1e-30)
    return min(max(factor, LEAST), MOST)
