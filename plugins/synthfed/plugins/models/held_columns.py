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

from ..api import Array, Given
from ..domains.encoding import Codes
from .layout import Layout

MOST_COMBINATIONS: Final = 4096


@dataclass(frozen=True, slots=True)
class HeldColumns:
    """Some blocks of a layout, in the order of sampling.

    Attributes:
        blocks: which.
        names: their columns.
        sizes: their cells.
        places: the places of all their cells in an encoded record.
    """

    blocks: tuple[int, ...]
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    places: tuple[int, ...]

    @classmethod
    def of(cls, layout: Layout, names: Sequence[str], plugin: str) -> "HeldColumns":
        """Return the blocks of columns of these names.

        Raises:
            ConfigError: a name is no categorical column, stands there twice, or there are too many combinations.
        """
        where = "model.options: conditions"
        for name in names:
            if name not in layout.names or layout.categories[layout.names.index(name)] == 0:
                raise ConfigError(f"column {name!r} cannot be a condition; name categorical columns", where=where)
        if len(set(names)) != len(names):
            raise ConfigError("lists a column twice; list each once", where=where)
        blocks = tuple(layout.names.index(name) for name in names)
        sizes = tuple(layout.sizes[block] for block in blocks)
        if math.prod(sizes) > MOST_COMBINATIONS:
            raise ConfigError(
                f"{plugin} can keep at most {MOST_COMBINATIONS:,} combinations of conditions, and there are "
                f"{math.prod(sizes):,}; name fewer columns",
                where=where,
            )
        return cls(blocks, tuple(names), sizes, tuple(place for block in blocks for place in layout.places(block)))

    @property
    def combinations(self) -> Codes:
        """Every combination of cells, shape ``(combinations, conditions)``; one empty one without conditions."""
        return np.indices(self.sizes, dtype=np.int64).reshape(len(self.sizes), math.prod(self.sizes)).T

    def shares(self, cells: Array) -> Array:
        """Return how often each combination occurs among encoded records, shape ``(combinations,)``.

        Args:
            cells: their condition cells as 0 and 1, shape ``(rows, sum(sizes))``.
        """
        if not self.sizes:
            return np.ones(1)
        ends = np.cumsum(self.sizes)[:-1]
        codes = [block.argmax(1) for block in np.split(cells, ends, axis=1)]
        counts = np.bincount(np.ravel_multi_index(codes, self.sizes), minlength=math.prod(self.sizes))
        return np.asarray(counts / max(len(cells), 1))

    def draw(self, shares: Array, given: Given, rows: int, rng: np.random.Generator) -> Codes:
        """Return combinations that have the given categories, as often as ``shares`` says among these.

        Args:
            shares: weight of each combination, shape ``(combinations,)``.
            given: category by column.
            rows: how many.
            rng: where they are drawn from.

        Returns:
            Shape ``(rows, conditions)``.

        Raises:
            ConfigError: a column that is given is no condition.
        """
        strange = sorted(set(given) - set(self.names))
        if strange:
            raise ConfigError(f"column {strange[0]!r} cannot be given; this model's conditions are {list(self.names)}")
        combinations = self.combinations
        fits = np.ones(len(combinations), dtype=np.bool_)
        for place, name in enumerate(self.names):
            if name in given:
                fits &= combinations[:, place] == given[name]
        weights = np.where(fits, np.maximum(shares, 0.0), 0.0)
        # A combination that was never seen is still to be had when asked for.
        weights = weights if weights.sum() > 0 else fits.astype(np.float64)
        return combinations[rng.choice(len(combinations), rows, p=weights / weights.sum())]


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
