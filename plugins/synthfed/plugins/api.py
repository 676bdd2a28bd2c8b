"""What a plugin author implements: a model's declared sums, private part and public part.

Never gives a plugin the noise, the sampling, the ledger or the network: those belong to the core.

A study is a sequence of private sums. A plugin only says what one privacy unit contributes; the
core samples the units, clips each contribution to the declared L2 norm, adds the noise share,
charges the ledger and masks the result. What a plugin's private part must guarantee, and the site
trusts its pinned hash for: a unit's contribution depends on that unit, the payload and the coins
that the core tossed for it alone.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from synthfed.protocols.schema import Column, Records
from synthfed.protocols.sums import Sum

if TYPE_CHECKING:
    import torch
    from pydantic import BaseModel

    from synthfed.plugins.audits.estimate import Estimate
    from synthfed.protocols.study import Study

__all__ = [
    "Answer",
    "Array",
    "Ask",
    "Audit",
    "Domain",
    "Given",
    "Keep",
    "LocalPart",
    "Model",
    "Payload",
    "PrivatePart",
    "Records",
    "Source",
    "Span",
    "Sum",
    "Table",
    "Trainer",
]

Array = npt.NDArray[np.float64]
Payload = Mapping[str, npt.NDArray[np.float32]]
"""Named float32 arrays that the coordinator sends with a round; names and shapes are declared."""


@dataclass(frozen=True, slots=True)
class Span:
    """Which values synthetic records are to have in a column: those between two bounds, or missing ones.

    What counts is a value as a file shows it, with the column's decimals. Of a category both bounds
    are the index.

    Attributes:
        low: the least value; NaN for missing.
        high: the greatest, which is allowed, too; NaN for missing.
    """

    low: float
    high: float

    @classmethod
    def at(cls, value: float) -> Span:
        """Return the span of one value: a number, a category's index, or NaN for missing."""
        return cls(value, value)

    @property
    def is_missing(self) -> bool:
        """Whether missing values are asked for."""
        return math.isnan(self.low)

    def cell(self, categories: int) -> int:
        """Return the cell of a column of so many categories, after which comes that of missing values."""
        return categories if self.is_missing else int(self.low)


Given = Mapping[str, Span]
"""What synthetic records are to have in common: which values, by the column's name, as the schema allows."""


@dataclass(frozen=True, slots=True)
class Ask:
    """The next private sum that a trainer wants: which kind, and the payload for the sites."""

    sum: str
    payload: Payload


@dataclass(frozen=True, slots=True)
class Answer:
    """A released private sum, as it reaches the coordinator: all that is ever known of the records.

    Attributes:
        sum: the kind's name.
        total: sum over the sampled units of the cohort and all steps of the round, plus noise, shape ``(dim,)``.
        noise_std: standard deviation of the noise in each coordinate of ``total``.
        sites: how many sites took part.
    """

    sum: str
    total: Array
    noise_std: float
    sites: int


class PrivatePart(Protocol):
    """What runs at a site, on records. Stateless: nothing may survive from one unit or round to the next."""

    def encode(self, records: Records) -> Array:
        """Return each record as a vector, shape ``(rows, width)``, from the schema alone, row by row."""
        ...

    def statistic(self, name: str, batch: Array, payload: Payload) -> Array:
        """Return each encoded record's contribution to a statistic, shape ``(rows, dim)``."""
        ...

    def module(self, name: str) -> torch.nn.Module:
        """Return the module of a gradient sum; the core loads the payload into it, in parameter order.

        The sum is of gradients by those parameters that ask for one; the others take part as they are.
        """
        ...

    def loss(self, name: str, module: torch.nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
        """Return the loss of each encoded record under the module, shape ``(rows,)``.

        Args:
            name: the sum's.
            module: what ``module`` returned, with the payload's weights, in double precision.
            batch: encoded records, shape ``(rows, width)``.
            coins: uniform numbers in (0, 1), fresh and secret, shape ``(rows, coins)`` as the sum declares.
        """
        ...


class LocalPart(Protocol):
    """What runs at a site between two steps of one round: on what is public once it leaves, never on a record.

    Only models whose sum has several ``steps`` in a round have one; they offer it by a method ``local``.
    """

    def advance(self, name: str, payload: Payload, noised: Array, step: int) -> Payload:
        """Return the payload at which the next step's sum is taken, its arrays named and shaped as declared.

        A function of the arguments and the study alone. What it returns is brought within +-10,000.

        Args:
            name: the sum's.
            payload: at which this step's sum was taken.
            noised: that sum at this site, with noise that alone keeps the promise, shape ``(dim,)``.
            step: of the round, from 0.
        """
        ...


class Still:
    """The local part of a model that has none: all steps of a round are taken at one payload."""

    def advance(self, name: str, payload: Payload, noised: Array, step: int) -> Payload:  # noqa: ARG002
        """Return the payload as it is."""
        return payload


def local_part(model: Model) -> LocalPart:
    """Return what a model does at a site between two steps of a round."""
    local: LocalPart = model.local() if isinstance(model, LocalModel) else Still()
    return local


class Trainer(Protocol):
    """What runs at the coordinator: everything after the sum, in the clear, on public quantities."""

    def ask(self, remaining: Mapping[str, int]) -> Ask | None:
        """Return the next sum wanted, given how many rounds of each kind are left; None when trained."""
        ...

    def overlap(self) -> None:
        """Do public work while the sites compute the sum last asked for."""
        ...

    def receive(self, answer: Answer) -> None:
        """Use a released sum. A round that failed is never delivered; ``ask`` is simply called again."""
        ...

    def sample(self, rows: int, seed: int, given: Given) -> Records:
        """Return synthetic records, shape ``(rows, width)``, the same for the same state, seed and ``given``.

        ``given`` names columns among the model's ``conditions`` only. Every record has such values, and the
        records are those that would be left of very many without ``given``.

        Raises:
            ConfigError: the model has no such record.
        """
        ...

    def walk(self, walks: int, steps: int, seed: int) -> Records:
        """Return records along straight walks through the latent space, shape ``(walks * steps, width)``.

        A walk's records follow each other. A model without a latent space returns none, shape ``(0, width)``.
        """
        ...

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return a copy of the whole state as named arrays: a checkpoint from which training goes on exactly."""
        ...

    def load(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Restore what ``state`` returned."""
        ...

    def progress(self) -> Mapping[str, float]:
        """Return a few named public numbers that describe the training so far, for logs and curves."""
        ...


class Model(Protocol):
    """A model plugin: one class, both halves. Its constructor takes the study and reads nothing else.

    Attributes:
        Options: what a study may set under ``[model.options]``.
        conditions: the columns whose values sampling can fix exactly, however rare: each category, each span of
            numbers, and missing where the schema has it. None of them is an array.
    """

    Options: type[BaseModel]
    conditions: tuple[str, ...]

    def __init__(self, study: Study) -> None:
        """Validate ``study.model.options`` against ``Options`` and remember the public description.

        Raises:
            ConfigError: an option is wrong, or the model is not made for such columns.
        """
        ...

    def sums(self) -> tuple[Sum, ...]:
        """Return every kind of private sum the model may ask for, in the order of planning."""
        ...

    def private(self) -> PrivatePart:
        """Return the half that runs at a site."""
        ...

    def trainer(self, seed: int) -> Trainer:
        """Return the half that runs at the coordinator; ``seed`` fixes initial weights and public draws."""
        ...


@runtime_checkable
class LocalModel(Protocol):
    """A model of which a site moves on its own between two steps of a round."""

    def local(self) -> LocalPart:
        """Return what runs at a site between two steps."""
        ...


Source = Literal["synthetic", "train", "holdout"]
"""Which rows an audit looks at: the release's, the real ones it was trained on, real ones it never saw."""


class Audit(Protocol):
    """An audit plugin: one declared question about synthetic rows. Its constructor takes nothing."""

    name: str
    question: str
    needs: tuple[Source, ...]

    def unfit(self, study: Study) -> str:
        """Return why the question makes no sense for such records, in one sentence; empty if it does."""
        ...

    def run(self, study: Study, rows: Mapping[Source, Records], seed: int) -> tuple[Estimate, ...]:
        """Return the measured numbers, the most important first; ``rows`` holds at least what ``needs`` lists."""
        ...


@dataclass(frozen=True, slots=True)
class Table:
    """A site's records and the privacy unit of each.

    Attributes:
        records: shape ``(rows, width)``, as the schema codes them.
        units: shape ``(rows,)``, each record's unit as a number from 0 to units - 1.
        names: of all columns or arrays that the file has, those that were not asked for, too; empty where a domain
            cannot tell.
        left_out: how many records a reader was told not to keep.
        dropped: how many rows were left out because they do not fit; the site's own operator's to know, nobody else's.
        problems: what was wrong with these, each kind with its number of rows.
        unit_names: each unit's name, by its number; empty where units have none, or a domain does not tell. They tell
            a site whether it has seen these records before, and go no further.
    """

    records: Records
    units: npt.NDArray[np.int64]
    names: frozenset[str] = frozenset()
    left_out: int = 0
    dropped: int = 0
    problems: tuple[str, ...] = ()
    unit_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Keep:
    """Which records a reader keeps: those whose column holds one of the accepted values, blanks around it ignored.

    Attributes:
        column: need not be in the schema.
        accepted: what it must hold.
    """

    column: str
    accepted: frozenset[str]


class Domain(Protocol):
    """A kind of data: how a site's file is read and a release is written. Its constructor takes nothing.

    Attributes:
        suffix: how the name of a file that ``write`` makes ends, such as ``.csv``.
    """

    suffix: str

    def check(self, columns: Sequence[Column]) -> None:
        """Refuse, with a ConfigError, a schema that is not of this kind of data."""
        ...

    def read(
        self,
        path: Path,
        columns: Sequence[Column],
        *,
        unit: str | None,
        records_per_unit: int,
        drop_invalid: bool = False,
    ) -> Table:
        """Return the records of a site's file; DataError, without a value, where they do not fit the schema.

        With ``drop_invalid`` records that do not fit are left out and counted. Whether one is may depend on that
        record and the schema alone, or another record would decide on it.
        """
        ...

    def write(self, path: Path, columns: Sequence[Column], chunks: Iterable[Records]) -> None:
        """Write synthetic records, a chunk at a time, all or nothing."""
        ...

    def picture(self, columns: Sequence[Column], records: Records, across: int) -> bytes | None:
        """Return a PNG of the records, ``across`` in a row; None for data that no picture shows."""
        ...

    def draft(self, path: Path, *, exclude: Collection[str]) -> tuple[Column, ...]:
        """Return a schema drafted from a public or dummy file, without the columns in ``exclude``."""
        ...


@runtime_checkable
class KeepingDomain(Protocol):
    """A domain that can leave records out while it reads, before it looks at anything else of them."""

    def read_kept(
        self,
        path: Path,
        columns: Sequence[Column],
        *,
        unit: str | None,
        records_per_unit: int,
        keep: Keep,
        drop_invalid: bool = False,
    ) -> Table:
        """Return the records that are to be kept and how many are not; errors as ``Domain.read``."""
        ...
