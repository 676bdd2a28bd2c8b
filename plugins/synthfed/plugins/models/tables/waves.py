"""A shorter view of one-hot records: smooth functions of a number's place in place of its cells.

Never depends on anything but the schema: a site that computes it learns and tells nothing by it.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from ...api import Array
from ...domains.encoding import Block

ROOT_TWO: Final = 2**0.5  # a cosine's mean square over all places is then 1


def waves(blocks: Sequence[Block], count: int) -> torch.Tensor:
    """Return what turns one-hot records into their view, shape ``(width, inputs)``, float32.

    A column of at most ``count`` cells, or of categories, is seen as it is. A number is seen as ``count`` cosines of
    its cell's place, of rising frequency, and by indicators of what has no place among its neighbours: missing, and
    the lower bound where that has a cell of its own.

    Args:
        blocks: the columns' cells.
        count: of cosines for each number.
    """
    parts = [_of_column(block, count) for block in blocks]
    view = np.zeros((sum(len(part) for part in parts), sum(part.shape[1] for part in parts)), dtype=np.float32)
    row = column = 0
    for part in parts:
        view[row : row + len(part), column : column + part.shape[1]] = part
        row, column = row + len(part), column + part.shape[1]
    return torch.from_numpy(view)


def _of_column(block: Block, count: int) -> Array:
    cells = np.eye(block.width)
    if not len(block.edges) or block.width <= count:
        return cells
    places = (np.arange(block.values) + 0.5) / block.values
    cosines = np.zeros((block.width, count))
    cosines[: block.values] = ROOT_TWO * np.cos(np.pi * np.outer(places, np.arange(1, count + 1)))
    apart = [0] if block.edges[0] == block.edges[1] else []
    apart += list(range(block.values, block.width))
    return np.concatenate([cosines, cells[:, apart]], axis=1)
