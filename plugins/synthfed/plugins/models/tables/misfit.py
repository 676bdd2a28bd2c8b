"""How far the associations of a generator's fakes are from the released two-way moments.

Never draws a fake or sees a record: it compares expected moments with released ones.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from .pairs import PairLayout

_LEAST: Final = 1e-12  # of a probability in a logarithm


class PairMisfit:
    """The square misfit of two-way moments, in units of the noise.

    Attributes:
        count: of moments.
    """

    def __init__(
        self,
        layout: PairLayout,
        embedding: npt.NDArray[np.float64],
        moments: npt.NDArray[np.float64],
        noise_std: float,
    ) -> None:
        """Compare with released ``moments``, noise taken off, shape ``(features, features)``."""
        self._embedding = torch.tensor(embedding, dtype=torch.float32)
        self._moments = torch.tensor(moments, dtype=torch.float32)
        self.count = layout.dim - layout.width
        # By this, a misfit by noise alone is 1.
        self._weights = torch.tensor(layout.mask / (self.count * noise_std**2), dtype=torch.float32)

    def __call__(self, expected: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Return the mean square misfit of cell probabilities.

        Given its latent, a fake's columns are independent, so the product of two columns' expected
        features is the expected product: the moments need no drawn cells.

        Args:
            expected: of fakes, shape ``(rows, width)``.
            weights: of the fakes, with mean 1, shape ``(rows,)``; all alike if None.
        """
        features = expected @ self._embedding
        weighted = features if weights is None else features * weights[:, None]
        # Centred on the fakes' own means, so that no drift of the marginals can pass for an association.
        means = weighted.mean(0)
        moments = weighted.T @ features / len(features) - torch.outer(means, means)
        return ((moments - self._moments).square() * self._weights).sum()


def information(expected: torch.Tensor) -> torch.Tensor:
    """Return how much a fake's latent tells about its cells, in nats, 0 where no column depends on it.

    The mean over fakes, summed over columns, of the divergence of a column's probabilities from their mean. Given
    its latent a fake's columns are independent, so this bounds the dependence among all columns together (their
    total correlation, Watanabe 1960, doi:10.1147/rd.41.0066) from above.

    Args:
        expected: cell probabilities of fakes, shape ``(rows, width)``.
    """
    inside: torch.Tensor = torch.special.entr(expected.clamp_min(_LEAST)).sum(1).mean()
    outside: torch.Tensor = torch.special.entr(expected.mean(0).clamp_min(_LEAST)).sum()
    return outside - inside
