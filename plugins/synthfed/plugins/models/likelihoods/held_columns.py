"""The categorical columns that sampling can fix exactly, and draws of all of them together.

Never learns a record's category: how often a combination occurs comes from public draws or a network.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.study import Study

from ...api import Array, Given
from ...domains.encoding import Codes
from ..tables.conditions import check_given
from .layout import Layout

MOST_COMBINATIONS: Final = 4096


@dataclass(frozen=True, slots=True)
class HeldColumns:
    """Some blocks of a layout, in the order of sampling.

    Attributes:
        blocks: which.
        names: their columns.
        categories: how many each has.
        sizes: their cells, of which one more than categories is for missing values.
        places: the places of all their cells in an encoded record.
    """

    blocks: tuple[int, ...]
    names: tuple[str, ...]
    categories: tuple[int, ...]
    sizes: tuple[int, ...]
    places: tuple[int, ...]

    @classmethod
    def of(cls, layout: Layout, names: Sequence[str]) -> "HeldColumns":
        """Return the blocks of columns of these names.

        Raises:
            ConfigError: a name is no categorical column, or stands there twice.
        """
        where = "model.options: conditions"
        for name in names:
            if name not in layout.names or layout.categories[layout.names.index(name)] == 0:
                raise ConfigError(f"column {name!r} cannot be a condition; name categorical columns", where=where)
        if len(set(names)) != len(names):
            raise ConfigError("lists a column twice; list each once", where=where)
        blocks = tuple(layout.names.index(name) for name in names)
        sizes = tuple(layout.sizes[block] for block in blocks)
        categories = tuple(layout.categories[block] for block in blocks)
        cells = tuple(place for block in blocks for place in layout.places(block))
        return cls(blocks, tuple(names), categories, sizes, cells)

    @property
    def combinations(self) -> Codes:
        """Every combination of cells, shape ``(combinations, columns)``; one empty one without columns.

        Raises:
            ConfigError: there are too many to list.
        """
        count = math.prod(self.sizes)
        if count > MOST_COMBINATIONS:
            raise ConfigError(
                f"the conditions have {count:,} combinations, more than {MOST_COMBINATIONS:,}; name fewer columns",
                where="model.options: conditions",
            )
        return np.indices(self.sizes, dtype=np.int64).reshape(len(self.sizes), count).T

    def codes(self, records: torch.Tensor) -> Codes:
        """Return the cells of these columns in encoded records ``(rows, width)``, shape ``(rows, columns)``."""
        parts = records[:, list(self.places)].split_with_sizes(list(self.sizes), 1)
        return np.stack([part.argmax(1).numpy() for part in parts], 1) if parts else np.empty((len(records), 0), int)

    def draw(self, law: Codes, weights: Array, given: Given, rows: int, rng: np.random.Generator) -> Codes:
        """Return combinations that have the given categories, as often as a law says among these.

        Args:
            law: combinations, some perhaps several times, shape ``(combinations, columns)``.
            weights: of each, shape ``(combinations,)``.
            given: category, or missing, by column.
            rows: how many.
            rng: where they are drawn from.

        Returns:
            Shape ``(rows, columns)``.

        Raises:
            ConfigError: a column that is given is none of these.
        """
        check_given(given, self.names)
        held = enumerate(zip(self.names, self.categories, strict=True))
        wanted = [(place, given[name].cell(count)) for place, (name, count) in held if name in given]
        fits = np.ones(len(law), dtype=np.bool_)
        for place, cell in wanted:
            fits &= law[:, place] == cell
        left = np.where(fits, weights, 0.0)
        # What the law never saw is still to be had when asked for, with the other columns as they are in general.
        left = left if left.sum() > 0 else weights
        drawn = law[rng.choice(len(law), rows, p=left / left.sum())]
        for place, cell in wanted:
            drawn[:, place] = cell
        return drawn


def held_names(study: Study, names: Sequence[str] | None, layout: Layout) -> tuple[str, ...]:
    """Return the names a study sets or, where it sets none, the target's if that is categorical."""
    if names is not None:
        return tuple(names)
    is_category = study.target in layout.names and layout.categories[layout.names.index(study.target)] > 0
    return (study.target,) if is_category else ()


def drawn(logits: torch.Tensor, rng: np.random.Generator) -> Codes:
    """Return one cell of each row by inversion, shape ``(rows,)``.

    Args:
        logits: of one column's cells, shape ``(rows, cells)``.
        rng: where the uniform numbers come from.
    """
    reached = torch.softmax(logits.double(), 1).cumsum(1).numpy()
    return np.asarray(np.minimum((reached <= rng.random((len(reached), 1))).sum(1), reached.shape[1] - 1))
