"""Synthetic rows by quota: every category equally often, or as often in every group.

Never lets such rows pass for the population's: each kind of quota says in words what was changed.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from synthfed.plugins.api import Span, Trainer
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import ArrayColumn, Categorical, Column, Records, places

from .sampling import chunk_rows, draw
from .where import Condition

Codes = npt.NDArray[np.int64]

_MISSING: Final = -1  # among codes, which count categories from 0


@dataclass(frozen=True, slots=True)
class Supply:
    """Where rows come from, without a quota.

    Attributes:
        trainer: the trained model.
        columns: the schema.
        conditions: what every record must meet.
        native: the columns whose values the model can fix.
    """

    trainer: Trainer
    columns: Sequence[Column]
    conditions: Sequence[Condition]
    native: Collection[str]

    def rows(self, count: int, seed: int, more: Sequence[Condition] = ()) -> Records:
        """Return so many records, at least one, that meet ``more``, too."""
        conditions = [*self.conditions, *more]
        return np.concatenate(list(draw(self.trainer, self.columns, count, seed, conditions, self.native)))


@dataclass(frozen=True, slots=True)
class Label:
    """A categorical column that a quota is on, and its place in a record."""

    column: Categorical
    place: int

    def codes(self, records: Records) -> Codes:
        """Return the category of every record, `_MISSING` where there is none, shape ``(rows,)``."""
        return np.nan_to_num(records[:, self.place], nan=_MISSING).astype(np.int64)

    def condition(self, code: int) -> Condition:
        """Return the condition that a record has this category."""
        name = self.column.name
        if code == _MISSING:
            return Condition(f"{name} is missing", self.column, self.place, Span.at(math.nan))
        return Condition(f"{name} = {self.column.values[code]}", self.column, self.place, Span.at(code))


class Quota(ABC):
    """Which categories the rows of a file are to have.

    Attributes:
        labels: the columns that it sets.
    """

    labels: tuple[Label, ...]

    @property
    @abstractmethod
    def notice(self) -> str:
        """What makes such rows differ from the release's own, in one sentence."""

    @abstractmethod
    def wanted(self, supply: Supply, first: int, count: int, seed: int) -> Codes:
        """Return the categories of the rows from ``first`` on, shape ``(count, labels)``; ``seed`` is the file's."""


class Balance(Quota):
    """Every category of a column equally often, to one row; none is missing."""

    def __init__(self, label: Label) -> None:
        """Balance a column."""
        self.labels = (label,)

    @property
    def notice(self) -> str:
        """What makes such rows differ from the release's own."""
        name = self.labels[0].column.name
        return f"balanced: every category of {name!r} equally often and never missing, not as the release has them"

    def wanted(self, supply: Supply, first: int, count: int, seed: int) -> Codes:  # noqa: ARG002
        """Return categories in turn, so that any number of rows is balanced, then shuffled."""
        # Which categories have the odd rows is drawn once for the whole file.
        turns = np.random.default_rng(seed).permutation(len(self.labels[0].column.values))
        codes = turns[np.arange(first, first + count) % len(turns)]
        return np.random.default_rng([seed, first, 1]).permutation(codes)[:, None]


class Equality(Quota):
    """A column's categories as often in every group of another one, both as often as in plain rows.

    Missing counts as one more category, and as one more group.
    """

    def __init__(self, target: Label, group: Label) -> None:
        """Make the rates of ``target`` alike across ``group``."""
        self.labels = (target, group)

    @property
    def notice(self) -> str:
        """What makes such rows differ from the release's own."""
        target, group = (label.column.name for label in self.labels)
        return (
            f"equalised: every category of {target!r} as often in every group of {group!r}, not as the release has them"
        )

    def wanted(self, supply: Supply, first: int, count: int, seed: int) -> Codes:
        """Return the groups of plain rows, and over each the targets of all these rows, spread evenly."""
        rng = np.random.default_rng([seed, first, 1])
        plain = supply.rows(count, _seed(seed, first, 0))
        targets, groups = (label.codes(plain) for label in self.labels)
        turns = rng.permutation(count)
        turns = turns[np.argsort(groups[turns], kind="stable")]  # group after group
        spread = np.empty(count, dtype=np.int64)
        spread[turns] = _spread(targets, rng)
        return np.column_stack([spread, groups])


def find_quota(
    columns: Sequence[Column],
    conditions: Sequence[Condition],
    *,
    balance: str | None = None,
    equalise: str | None = None,
    across: str | None = None,
) -> Quota | None:
    """Return what a command asks for; None for rows as the model draws them.

    Raises:
        ConfigError: the parts do not go together, or a column is none that a quota can be on.
    """
    if balance is not None and equalise is not None:
        raise ConfigError("cannot go with --equalise; choose one", where="--balance")
    if (equalise is None) != (across is None):
        raise ConfigError(
            "go together; name the column whose rates are to be equal, and the one across whose groups",
            where="--equalise, --across",
        )
    if equalise is not None and equalise == across:
        raise ConfigError("must be another column than --equalise", where="--across")
    asked = {"--balance": balance, "--equalise": equalise, "--across": across}
    labels = [_label(columns, conditions, flag, name) for flag, name in asked.items() if name is not None]
    if not labels:
        return None
    return Balance(labels[0]) if balance is not None else Equality(labels[0], labels[1])


def draw_by(quota: Quota, supply: Supply, rows: int, seed: int) -> Iterator[Records]:
    """Yield synthetic records in chunks that meet a quota, in any order.

    Args:
        quota: which.
        supply: where records come from; a combination that it cannot fix is met by rejection.
        rows: how many records in all.
        seed: of the draws: the same state, arguments and seed give the same records.

    Raises:
        ConfigError: as of `draw`, or a combination of the quota is met too rarely.
    """
    if rows < 1:
        raise ConfigError(f"cannot sample {rows} rows; ask for at least one")
    if seed < 0:
        raise ConfigError(f"cannot sample with seed {seed}; choose one that is not negative")
    chunk = chunk_rows(supply.columns)
    for first in range(0, rows, chunk):
        wanted = quota.wanted(supply, first, min(chunk, rows - first), seed)
        records = np.empty((len(wanted), places(supply.columns)[-1]))
        for part, codes in enumerate(np.unique(wanted, axis=0)):
            mine = (wanted == codes).all(axis=1)
            more = [label.condition(int(code)) for label, code in zip(quota.labels, codes, strict=True)]
            records[mine] = supply.rows(int(mine.sum()), _seed(seed, first, 1 + part), more)
        yield records


def _label(columns: Sequence[Column], conditions: Sequence[Condition], flag: str, name: str) -> Label:
    names = [column.name for column in columns]
    if name not in names:
        raise ConfigError(f"the study has no column {name!r}; its columns: {', '.join(names)}", where=flag)
    column = columns[names.index(name)]
    if not isinstance(column, Categorical):
        kind = "an array" if isinstance(column, ArrayColumn) else "a number"
        raise ConfigError(f"column {name!r} is {kind}; name a categorical column", where=flag)
    if name in [condition.column.name for condition in conditions]:
        raise ConfigError(f"column {name!r} has a condition already; leave out its --where", where=flag)
    return Label(column, places(columns)[names.index(name)])


def _spread(codes: Codes, rng: np.random.Generator) -> Codes:
    """Return the same codes in an order in which every stretch has all of them as often as the whole.

    Each code's occurrences lie at equal distances, from a random start: a stretch differs from the
    whole's shares by about one row for each code.
    """
    values, counts = np.unique(codes, return_counts=True)
    positions = [(np.arange(count) + rng.random()) / count for count in counts]
    return np.repeat(values, counts)[np.argsort(np.concatenate(positions), kind="stable")]


def _seed(seed: int, first: int, part: int) -> int:
    """Return the seed of one part of the chunk that begins with row ``first``."""
    return int(np.random.SeedSequence([seed, first, part]).generate_state(1)[0])
