"""What a plugin author implements: a model's declared sums, private part and public part.

Never gives a plugin the noise, the sampling, the ledger or the network: those belong to the core.

A study is a sequence of private sums. A plugin only says what one privacy unit contributes; the
core samples the units, clips each contribution to the declared L2 norm, adds the noise share,
charges the ledger and masks the result. What a plugin's private part must guarantee, and the site
trusts its pinned hash for: a unit's contribution depends on that unit and the payload alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

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
    "Model",
    "Payload",
    "PrivatePart",
    "Records",
    "Source",
    "Sum",
    "Table",
    "Trainer",
]

Array = npt.NDArray[np.float64]
Payload = Mapping[str, npt.NDArray[np.float32]]
"""Named float32 arrays that the coordinator sends with a round; names and shapes are declared."""


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
        total: sum over the sampled units of the cohort, plus noise, shape ``(dim,)``.
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
        """Return the module of a gradient sum; the core loads the payload into it, in parameter order."""
        ...

    def loss(self, name: str, module: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        """Return the loss of each encoded record under the module, shape ``(rows,)``."""
        ...


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

    def sample(self, rows: int, seed: int) -> Records:
        """Return synthetic records, shape ``(rows, columns)``, the same for the same state and seed."""
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
    """A model plugin: one class, both halves. Its constructor takes the study and reads nothing else."""

    Options: type[BaseModel]

    def __init__(self, study: Study) -> None:
        """Validate ``study.model.options`` against ``Options`` and remember the public description."""
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


Source = Literal["synthetic", "train", "holdout"]
"""Which rows an audit looks at: the release's, the real ones it was trained on, real ones it never saw."""


class Audit(Protocol):
    """An audit plugin: one declared question about synthetic rows. Its constructor takes nothing."""

    name: str
    question: str
    needs: tuple[Source, ...]

    def run(self, study: Study, rows: Mapping[Source, Records], seed: int) -> tuple[Estimate, ...]:
        """Return the measured numbers, the most important first; ``rows`` holds at least what ``needs`` lists."""
        ...


@dataclass(frozen=True, slots=True)
class Table:
    """A site's records and the privacy unit of each.

    Attributes:
        records: shape ``(rows, columns)``, as the schema codes them.
        units: shape ``(rows,)``, each record's unit as a number from 0 to units - 1.
    """

    records: Records
    units: npt.NDArray[np.int64]


class Domain(Protocol):
    """A kind of data: how a site's file is read and a release is written."""

    def read(self, path: Path, columns: Sequence[Column], *, unit: str | None, records_per_unit: int) -> Table:
        """Return the records of a site's file; DataError, without a value, where they do not fit the schema."""
        ...

    def write(self, path: Path, columns: Sequence[Column], records: Records) -> None:
        """Write synthetic records, all or nothing."""
        ...

    def draft(self, path: Path, *, exclude: Collection[str]) -> tuple[Column, ...]:
        """Return a schema drafted from a public or dummy file, without the columns in ``exclude``."""
        ...
