"""The losses of GANs: what a score costs the critic on a record, the critic on a fake, and the generator.

Never mixes scores: a loss on real records is private and must be one record's alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch.nn import functional

Loss = Callable[[torch.Tensor], torch.Tensor]
"""From scores ``(rows, 1)`` to losses ``(rows,)``."""


@dataclass(frozen=True, slots=True)
class Losses:
    """The three losses of one kind of GAN.

    Attributes:
        real: the critic's, of a real record; the one loss that is private.
        fake: the critic's, of a fake.
        generator: the generator's, of a fake.
    """

    real: Loss
    fake: Loss
    generator: Loss


def _against(scores: torch.Tensor) -> torch.Tensor:
    return functional.softplus(scores).squeeze(1)


def _towards(scores: torch.Tensor) -> torch.Tensor:
    return functional.softplus(-scores).squeeze(1)


def _lower(scores: torch.Tensor) -> torch.Tensor:
    return scores.squeeze(1)


def _higher(scores: torch.Tensor) -> torch.Tensor:
    return -scores.squeeze(1)


LOGISTIC: Final = Losses(_towards, _against, _towards)
"""-log sigmoid(score), -log(1 - sigmoid(score)), and the generator's that does not saturate, -log sigmoid(score)
(Goodfellow et al. 2014, arXiv:1406.2661)."""

WASSERSTEIN: Final = Losses(_higher, _lower, _higher)
"""-score, score, -score (Arjovsky, Chintala and Bottou 2017, arXiv:1701.07875)."""
