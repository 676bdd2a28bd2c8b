"""The sampler of the moment anchor: a mixture of Gaussians over cosine coefficients, corrected in its levels.

Never holds anything of a record: its numbers are post-processed released sums.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from ...api import Array
from .dct import CosineBasis
from .grey_levels import Levels
from .moment_sums import Group

CORRECTION_RECORDS: Final = 2048
CORRECTION_POINTS: Final = 257


@dataclass(frozen=True, slots=True)
class Mixture:
    """What is drawn: a class, a cell of it, normal coordinates, the array they stand for.

    Attributes:
        waves: the cosine basis.
        classes: probability of each class, shape ``(classes,)``.
        cells: probability of each cell in its class, shape ``(classes, cells)``.
        centres: mean of each cell in the directions of ``axes``, shape ``(classes, cells, dim)``.
        roots: square roots of the cells' covariances, shape ``(classes, cells, dim, dim)``.
        axes: the directions, orthonormal columns, shape ``(coefficients, dim)``.
        rest: each class's mean outside of the axes, shape ``(classes, coefficients)``.
        centre: the number about which the coefficients are taken.
    """

    waves: CosineBasis
    classes: Array
    cells: Array
    centres: Array
    roots: Array
    axes: Array
    rest: Array
    centre: float

    def draw_classes(self, rows: int, rng: torch.Generator, allowed: npt.NDArray[np.bool_]) -> Group:
        """Return classes drawn among the allowed ones, evenly if these have no probability, shape ``(rows,)``."""
        odds = np.where(allowed, self.classes, 0.0)
        return _draw(np.tile(odds if odds.sum() > 0 else allowed.astype(np.float64), (rows, 1)), rng)

    def draw(self, group: Group, rng: torch.Generator) -> Array:
        """Return coefficients of fresh arrays of these classes, shape ``(rows, coefficients)``."""
        cell = _draw(self.cells[group], rng)
        normal = torch.randn(len(group), self.axes.shape[1], generator=rng, dtype=torch.float64).numpy()
        moved = np.empty_like(normal)
        # Cell by cell, so that no matrix is copied for each record.
        for each in np.unique(group * self.cells.shape[1] + cell):
            place = divmod(int(each), self.cells.shape[1])
            here = (group == place[0]) & (cell == place[1])
            moved[here] = self.centres[place] + normal[here] @ self.roots[place].T
        return moved @ self.axes.T + self.rest[group]

    def arrays(self, coefficients: Array) -> Array:
        """Return the numbers that coefficients stand for, within [-1, 1], shape ``(rows, numbers)``."""
        return np.clip(self.waves.synthesise(coefficients) + self.centre, -1, 1)


@dataclass(frozen=True, slots=True)
class Correction:
    """A monotone map that brings the levels of sampled numbers to the released ones.

    Attributes:
        sampled: quantiles of what the mixture draws.
        released: the same quantiles of the released levels.
    """

    sampled: Array
    released: Array

    @classmethod
    def between(cls, mixture: Mixture, levels: Levels, strength: float) -> "Correction":
        """Return the map for a mixture; at strength 1 its numbers get the released distribution, at 0 they stay."""
        rng = torch.Generator().manual_seed(0)  # public draws; any fixed ones will do
        group = mixture.draw_classes(CORRECTION_RECORDS, rng, np.ones(len(mixture.classes), dtype=np.bool_))
        parts = np.linspace(0, 1, CORRECTION_POINTS)
        sampled = np.quantile(mixture.arrays(mixture.draw(group, rng)), parts)
        return cls(sampled, (1 - strength) * sampled + strength * levels.quantiles(parts))

    def __call__(self, numbers: Array) -> Array:
        """Return corrected numbers, of the same shape."""
        return np.interp(numbers, self.sampled, self.released)


def _draw(odds: Array, rng: torch.Generator) -> Group:
    """Return one index for each row of odds ``(rows, choices)``, by inversion of one uniform number each."""
    reached = np.cumsum(odds, axis=1)
    level = torch.rand(len(odds), generator=rng, dtype=torch.float64).numpy() * reached[:, -1]
    return np.asarray((reached[:, :-1] <= level[:, None]).sum(1))
