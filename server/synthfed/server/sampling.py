"""Synthetic rows from a trained model, a chunk at a time, all of them or those that meet conditions.

Never returns a row that does not meet them, and never searches without an end.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Final

import numpy as np

from synthfed.plugins.api import Trainer
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import Column, Records, places

from .where import Condition, given_by

CHUNK: Final = 100_000
"""Rows sampled and written at a time; part of the format, because each chunk has a seed of its own."""

_MOST_NUMBERS: Final = 2**24  # of a chunk: 128 MiB; records of arrays come in fewer rows
_LEAST_SEARCHED: Final = 20_000  # rows, before a search may be given up
_RAREST: Final = 1000  # a search goes on while at least one row in so many meets the conditions
_LEAST_DRAWN: Final = 1000  # rows at a time while searching


def draw(
    trainer: Trainer,
    columns: Sequence[Column],
    rows: int,
    seed: int,
    conditions: Sequence[Condition] = (),
    native: Collection[str] = (),
) -> Iterator[Records]:
    """Yield synthetic records in chunks, so that memory does not grow with their number.

    Args:
        trainer: the trained model.
        columns: the schema.
        rows: how many records in all.
        seed: of the draws: the same state, arguments and seed give the same records.
        conditions: what every record must meet.
        native: the columns whose values the model can fix; other conditions are met by rejection.

    Raises:
        ConfigError: ``rows`` or ``seed`` is out of range, or the conditions are met too rarely.
    """
    if rows < 1:
        raise ConfigError(f"cannot sample {rows} rows; ask for at least one")
    if seed < 0:
        raise ConfigError(f"cannot sample with seed {seed}; choose one that is not negative")
    chunk = chunk_rows(columns)
    given = given_by(conditions, native)
    drawn = kept = index = 0
    while kept < rows:
        count = _count(rows - kept, drawn, kept, chunk) if len(given) < len(conditions) else min(chunk, rows - kept)
        own = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
        records = trainer.sample(count, own, given)
        for condition in conditions:
            records = records[condition.holds(records)]
        records = records[: rows - kept]
        index, drawn, kept = index + 1, drawn + count, kept + len(records)
        if kept < rows and conditions and drawn >= _LEAST_SEARCHED and kept * _RAREST < drawn:
            raise _too_rare(conditions, kept, drawn)
        if len(records):
            yield records


def chunk_rows(columns: Sequence[Column]) -> int:
    """Return how many rows of such columns are held at a time."""
    return max(1, min(CHUNK, _MOST_NUMBERS // places(columns)[-1]))


def _count(wanted: int, drawn: int, kept: int, chunk: int) -> int:
    """Return how many rows to draw next: enough by the share that met the conditions so far, with some to spare."""
    share = max(kept, 1) / drawn if drawn else 1.0
    most = chunk if drawn >= _LEAST_SEARCHED else min(chunk, _LEAST_SEARCHED)
    return min(most, max(_LEAST_DRAWN, math.ceil(1.2 * wanted / share)))


def _too_rare(conditions: Sequence[Condition], kept: int, drawn: int) -> ConfigError:
    asked = " and ".join(f"`{condition.text}`" for condition in conditions)
    return ConfigError(
        f"{asked}: met by {kept:,} of {drawn:,} synthetic rows, fewer than 1 in {_RAREST:,}; ask for fewer or wider "
        "conditions"
    )
