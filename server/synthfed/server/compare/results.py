"""The results of a comparison as a JSON file: every run that ended, well or not, with where it was measured.

Never loses a finished run: the file is replaced as a whole, after every run.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from synthfed.plugins.files import read_text, write_whole
from synthfed.protocols.errors import ConfigError, describe
from synthfed.protocols.schema import Strict

from .plan import Key, Wanted

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]


class Measure(Strict):
    """One measured number.

    Attributes:
        value: of synthetic rows.
        low: lower end of its 95 % interval, where there is one.
        high: upper end.
        real: the same measurement of real rows, where it makes sense.
    """

    value: float
    low: float | None = None
    high: float | None = None
    real: float | None = None


class Cost(Strict):
    """What a training took.

    Attributes:
        seconds: from the first handshake to the written release, all sites in one process.
        cpu_seconds: of the processor, all threads.
        peak_mib: most resident memory of that process meanwhile, interpreter and libraries included; None where
            other work of the process would be in it.
        state_numbers: numbers in the trained model's saved state, the optimisers' included; None for a peer's.
        sent_numbers: numbers in the largest vector that a site sends; None where there are no sites.
    """

    seconds: Seconds
    cpu_seconds: Seconds
    peak_mib: Seconds | None
    state_numbers: Count | None = None
    sent_numbers: Count | None = None


class Place(Strict):
    """Where a run was measured: the machine, and the versions of what was installed."""

    machine: str
    versions: dict[str, str]


class Run(Strict):
    """One run that ended; ``error`` says why if it failed, and is empty if not.

    ``epsilon`` is promised with ``delta`` to one row, None where nothing is; ``spent`` is the most that a site was
    charged. ``split`` and ``rung`` are the way of dealing and the epsilon that the plan asks for, where it has several.
    """

    model: str
    data: str
    seed: Count
    split: str = ""
    rung: str = ""
    terms: str
    error: str = ""
    sites: Count = 0
    train: Count = 0
    test: Count = 0
    measures: dict[str, Measure] = Field(default_factory=dict)
    cost: Cost | None = None
    epsilon: float | None
    delta: float | None
    spent: float | None = None
    place: Place

    @property
    def key(self) -> Key:
        """What it is found by."""
        return (self.model, self.data, self.seed, self.split, self.rung)


class _Document(Strict):
    format: Literal[1] = 1
    runs: Annotated[tuple[Run, ...], Field(strict=False)]


class Results:
    """The runs so far, in a file."""

    def __init__(self, path: Path) -> None:
        """Read the file if there is one.

        Raises:
            ConfigError: it cannot be read, or is none of this format.
        """
        self._path = path
        self._runs: dict[Key, Run] = {}
        if path.exists():
            try:
                document = _Document.model_validate_json(read_text(path))
            except ValidationError as error:
                raise ConfigError(f"{describe(error)}; choose another --results", where=str(path)) from None
            self._runs = {run.key: run for run in document.runs}

    def find(self, wanted: Wanted) -> Run | None:
        """Return the run of a plan's entry if it ended under the same terms, well or not."""
        run = self._runs.get(wanted.key)
        return run if run is not None and run.terms == wanted.terms else None

    def of(self, runs: Iterable[Wanted]) -> tuple[Run, ...]:
        """Return those of a plan's runs that ended."""
        return tuple(run for wanted in runs if (run := self.find(wanted)) is not None)

    def add(self, run: Run) -> None:
        """Put a run in place of an older one of the same key, on disk when this returns."""
        self._runs[run.key] = run
        ordered = tuple(self._runs[key] for key in sorted(self._runs))
        document = _Document(runs=ordered).model_dump(mode="json")
        write_whole(self._path, [json.dumps(document, indent=1, allow_nan=False).encode() + b"\n"])
