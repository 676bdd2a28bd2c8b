"""How a column's cells are pooled into groups, and how a noisy histogram is smoothed inside them.

Never looks at a record: what is pooled and smoothed are released probabilities.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from synthfed.protocols.schema import Categorical

from ...api import Array
from ...domains.encoding import Block

Groups = npt.NDArray[np.int64]
"""The group of every cell of a column, numbered from 0 without a gap."""

SEEN: Final = 3.0  # standard deviations of the noise above which a cell is told apart
ATOM: Final = 0.04  # probability above which a number's cell is left as it was released
LEAST_SMOOTHED: Final = 3  # cells of a group: fewer have no spread that could be told from noise


def pooled(block: Block, probabilities: Array, most: int, noise_std: float) -> Groups:
    """Return the groups of a column's cells: at most ``most``, and no more than the noise lets be told apart.

    Numbers are pooled with their neighbours, to about equal probability, and missing stays alone; of
    categories the rare ones go together, because their order says nothing.

    Args:
        block: the column's cells.
        probabilities: of each cell, as released, shape ``(cells,)``.
        most: groups.
        noise_std: of each probability.

    Returns:
        Shape ``(cells,)``.
    """
    cells = len(probabilities)
    if isinstance(block.column, Categorical):
        return _common(probabilities, most, SEEN * noise_std)
    if cells <= most:
        return np.arange(cells)
    known = max(most - int(block.column.missing), 1)
    groups = _neighbours(probabilities[: block.values], known)
    alone = [known] if block.column.missing and most > 1 else [0] * int(block.column.missing)
    return np.unique(np.concatenate([groups, alone]), return_inverse=True)[1].astype(np.int64)


def smoothed(block: Block, probabilities: Array, noise_std: Array, most: int) -> Array:
    """Return a noisy histogram with the cells of every group shrunk towards their mean, shape ``(cells,)``.

    A cell gives up the part of its distance to the mean that noise alone would make (James and Stein
    1961, positive part). Categories, atoms and the missing cell stay as they are.

    Args:
        block: the column's cells.
        probabilities: of each, noise and all, so that some may be negative, shape ``(cells,)``.
        noise_std: of each, shape ``(cells,)``.
        most: groups of neighbours.
    """
    if isinstance(block.column, Categorical):
        return probabilities
    known, result = probabilities[: block.values], probabilities.copy()
    groups = _neighbours(np.maximum(known, 0.0), most)
    is_atom = known > np.maximum(ATOM, SEEN * noise_std[: block.values])
    for group in np.unique(groups):
        places = np.flatnonzero((groups == group) & ~is_atom)
        if len(places) >= LEAST_SMOOTHED:
            mean = known[places].mean()
            square = max(float(np.sum((known[places] - mean) ** 2)), 1e-300)
            expected = (len(places) - 2) * float(np.mean(noise_std[places] ** 2))
            result[places] = mean + max(0.0, 1.0 - expected / square) * (known[places] - mean)
    return result


def _neighbours(probabilities: Array, most: int) -> Groups:
    """Return groups of neighbouring cells of about equal probability; a cell with more than that has its own."""
    total = max(float(probabilities.sum()), 1e-300)
    middle = (np.cumsum(probabilities) - probabilities / 2) / total
    return np.minimum((middle * most).astype(np.int64), most - 1)


def _common(probabilities: Array, most: int, least: float) -> Groups:
    """Return a group for each common category and one for all others."""
    falling = np.argsort(-probabilities, kind="stable")
    kept = falling if len(falling) <= most else falling[: most - 1]
    kept = kept[probabilities[kept] >= least]
    groups = np.full(len(probabilities), len(kept))
    groups[np.sort(kept)] = np.arange(len(kept))
    return groups
