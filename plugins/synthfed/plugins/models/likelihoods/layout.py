"""How an encoded record is laid out for a network: plain numbers first, then one block of cells per column.

Never looks at a record: the layout and the anchor of a study follow from its columns and options alone.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import ArrayColumn, Categorical, Records
from synthfed.protocols.study import Study

from ...api import Array
from ...domains.arrays import ArrayEncoder
from ...domains.encoding import Codes, OneHotEncoder
from ..anchor import Anchor
from ..arrays.moment_anchor import MomentAnchor, MomentAnchorOptions
from ..tables.table_anchor import Share, TableAnchor, TableAnchorOptions


@dataclass(frozen=True, slots=True)
class Layout:
    """The places of an encoded record; a table has no plain numbers, an image's labels are its blocks.

    Attributes:
        encoder: from records to numbers and cells.
        numbers: how many plain numbers come first, in [-1, 1].
        names: column of each block.
        sizes: cells of each block.
        categories: how many of them are categories that can be asked for, 0 for a column of numbers.
    """

    encoder: OneHotEncoder | ArrayEncoder
    numbers: int
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    categories: tuple[int, ...]

    @property
    def width(self) -> int:
        """Length of an encoded record."""
        return self.numbers + sum(self.sizes)

    def places(self, block: int) -> range:
        """Return the places of a block's cells."""
        start = self.numbers + sum(self.sizes[:block])
        return range(start, start + self.sizes[block])

    def encode(self, records: Records) -> Array:
        """Return records as a network takes them, row by row, shape ``(rows, width)``."""
        return self.encoder.encode(records)

    def decode(self, numbers: Array, codes: Codes, rng: np.random.Generator) -> Records:
        """Return records of these numbers ``(rows, numbers)`` and cells ``(rows, blocks)``."""
        if isinstance(self.encoder, ArrayEncoder):
            return self.encoder.decode(numbers, codes)
        return self.encoder.decode(codes, rng)

    def cells(self, blocks: Collection[int], codes: Codes) -> torch.Tensor:
        """Return the cells of some blocks as 0 and 1, in the order of ``blocks``, float32.

        Args:
            blocks: which.
            codes: cell of each, shape ``(rows, len(blocks))``.
        """
        parts = [np.eye(self.sizes[block], dtype=np.float32)[code] for block, code in zip(blocks, codes.T, strict=True)]
        return torch.from_numpy(np.concatenate([np.empty((len(codes), 0), dtype=np.float32), *parts], 1))


class TableOptions(TableAnchorOptions):
    """What a study may set of the anchor of a table, of which a network keeps little to itself.

    Attributes:
        marginals_share: the marginals' share of the budget.
    """

    marginals_share: Share = 0.2


class AnchorOptions(TableOptions, MomentAnchorOptions):
    """What a study may set of its anchor: the options of tables for tables, those of arrays for arrays.

    Attributes:
        anchor_share: the anchor's share of the budget for arrays; for tables it is the sum of its sums' shares.
    """

    anchor_share: Annotated[float, Field(gt=0, lt=1)] = 0.8


def table_ground(study: Study, options: TableAnchorOptions, plugin: str) -> tuple[Layout, TableAnchor]:
    """Return the layout of a table and its anchor; ConfigError, naming ``plugin``, where a column is an array."""
    anchor = TableAnchor(study, options, plugin)
    columns = study.columns
    categories = tuple(len(column.values) if isinstance(column, Categorical) else 0 for column in columns)
    return Layout(anchor.encoder, 0, tuple(column.name for column in columns), anchor.sizes, categories), anchor


def array_ground(study: Study, options: MomentAnchorOptions, share: float, plugin: str) -> tuple[Layout, MomentAnchor]:
    """Return the layout of an array with labels and its anchor; ConfigError where the columns are others."""
    anchor = MomentAnchor(study, options, plugin, share)
    encoder = anchor.encoder
    names = tuple(label.name for label in encoder.labels)
    categories = tuple(len(label.values) for label in encoder.labels)
    return Layout(encoder, encoder.numbers, names, encoder.sizes, categories), anchor


def ground(study: Study, options: AnchorOptions, plugin: str) -> tuple[Layout, Anchor]:
    """Return the layout and the anchor that suit a study's columns.

    Raises:
        ConfigError: the columns suit neither, or an option of the other kind of data is set.
    """
    is_array = any(isinstance(column, ArrayColumn) for column in study.columns)
    mine, other = (MomentAnchorOptions, TableAnchorOptions) if is_array else (TableAnchorOptions, MomentAnchorOptions)
    strange = set(other.model_fields) | (set() if is_array else {"anchor_share"})
    wrong = sorted(options.model_fields_set & strange - set(mine.model_fields))
    if wrong:
        kind = "tables" if is_array else "arrays"
        raise ConfigError(f"is an option for {kind}; leave it out", where=f"model.options: {wrong[0]}")
    return (
        array_ground(study, options, options.anchor_share, plugin) if is_array else table_ground(study, options, plugin)
    )
