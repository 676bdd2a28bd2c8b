"""Arrays as a few cosine coefficients for a network, and back with grey levels as frequent as they should be.

Never depends on a real record: the basis follows from the shape, levels are brought to those of public draws.
"""

from typing import Final, Self

import numpy as np
import torch

from ...api import Array
from ..anchor import Anchor
from ..arrays.moment_anchor import MomentAnchor

PARTS: Final = np.linspace(0, 1, 257)


class Coefficients:
    """A linear map from the plain numbers of records to as many coefficients as a network needs to know.

    Attributes:
        count: how many coefficients, 0 for records without plain numbers.
    """

    def __init__(self, matrix: Array) -> None:
        """Take an orthonormal basis as columns, shape ``(numbers, count)``."""
        self.count = matrix.shape[1]
        # With all energy of the numbers in them, coefficients are larger; scaled, their mean square is the same.
        self._scale = (self.count / max(len(matrix), 1)) ** 0.5
        self._matrix = torch.from_numpy(matrix)

    @classmethod
    def of(cls, anchor: Anchor) -> Self:
        """Return the coefficients that an anchor of arrays looks at, none for one of tables."""
        if isinstance(anchor, MomentAnchor):
            return cls(anchor.waves.analyse(np.eye(anchor.waves.numbers)))
        return cls(np.empty((0, 0)))

    def analyse(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return scaled coefficients of numbers ``(rows, numbers)``, shape ``(rows, count)``."""
        coefficients: torch.Tensor = numbers @ self._matrix.to(numbers.dtype) * self._scale
        return coefficients

    def synthesise(self, coefficients: torch.Tensor) -> Array:
        """Return the numbers that have these scaled coefficients and no others, shape ``(rows, numbers)``."""
        return np.asarray((coefficients.double() @ self._matrix.T / max(self._scale, 1e-9)).numpy())


class Levels:
    """A rising map that makes some numbers as frequent as others are."""

    def __init__(self, made: Array, aimed: Array) -> None:
        """Map numbers like those of ``made`` to numbers like those of ``aimed``; neither is empty."""
        self._made, self._aimed = np.quantile(made, PARTS), np.quantile(aimed, PARTS)

    def __call__(self, numbers: Array) -> Array:
        """Return the mapped numbers, of the same shape."""
        return np.interp(numbers, self._made, self._aimed)
