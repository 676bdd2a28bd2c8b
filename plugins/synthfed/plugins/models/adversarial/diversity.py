"""How many different records a batch of fakes amounts to: the watch on mode collapse, and a loss against it.

Never compares real records with each other, which would couple their units: fakes are held against the
anchor's samples, and both are public.
"""

from typing import Final

import torch

RECORDS: Final = 256  # compared pair by pair
LEAST_DISTANCE: Final = 1e-6
SHARPNESS: Final = 4.0  # tells records apart that differ in some places, not only typical pairs


def squared_distances(records: torch.Tensor) -> torch.Tensor:
    """Return the squared distances of all pairs of records, shape ``(rows, rows)``."""
    squares = records.square().sum(1)
    return (squares[:, None] + squares[None, :] - 2 * records @ records.T).clamp_min(0.0)


def log_diversity(records: torch.Tensor, scale: float) -> torch.Tensor:
    """Return the logarithm of the number of different records that a batch amounts to.

    It is the Vendi score of order 2 (Pasarkar and Dieng 2023, arXiv:2310.12952): one over the mean
    squared similarity of pairs, here with a Gaussian similarity. A batch of one and the same record
    gives 0. Unlike the mean squared distance, which is a sum over places, it sees that places go together.

    Args:
        records: encoded records, shape ``(rows, width)``.
        scale: typical squared distance; a quarter of it is where the squared similarity is 1/e.
    """
    return -(-SHARPNESS * squared_distances(records) / scale).exp().mean().log()


class Diversity:
    """The diversity of samples, and how far fakes fall short of it."""

    def __init__(self, samples: torch.Tensor) -> None:
        """Take samples of the anchor, shape ``(rows, width)``, as what is wanted."""
        self._rows = len(samples)
        self._scale = max(float(squared_distances(samples).mean()), LEAST_DISTANCE)
        self._wanted = float(log_diversity(samples, self._scale))

    def __call__(self, fakes: torch.Tensor) -> torch.Tensor:
        """Return the log of the fakes' diversity over the wanted one; negative where modes are lost.

        As many fakes are looked at as there were samples, for the score grows with their number.
        """
        return log_diversity(fakes[: self._rows], self._scale) - self._wanted
