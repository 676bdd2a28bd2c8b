"""What a plan may list: data sets with their public schemas, models with their options, and peers.

Never lets a model have another promise than the data set's.
"""

import math
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from synthfed.protocols.constraints import Constraints, check_constraints
from synthfed.protocols.schema import ArrayColumn, Categorical, Columns, Name, Strict
from synthfed.protocols.study import Privacy, check_site_column

FLOOR: Final = "floor"
"""The reserved name of the trivial model that every other one has to beat."""
BAYES: Final = "naive-bayes"
"""The reserved name of noisy naive Bayes as a model of tables: simple, and on many tables hard to beat."""
TRIVIAL: Final = (FLOOR, BAYES)
WITHOUT_PROMISE: Final = math.inf
"""The epsilon of those that promise nothing, ..."""
WITHOUT_RUNG: Final = f"{WITHOUT_PROMISE:g}"
"""... and as the text that results are found by."""

_LABEL: Final = r"^[a-z0-9][a-z0-9_-]{0,30}$"  # two of them name a study
_LARGEST_EPSILON: Final = 100.0  # that a study may state
Label = Annotated[str, Field(pattern=_LABEL)]
Rows = Annotated[int, Field(ge=1)]
Split = Literal["equal", "skewed"]
"""How rows are dealt to sites: by chance in equal parts, or by chance with other shares of each category everywhere."""
System = Literal["gaussian-copula", "ctgan", "tvae", "aim", "mst"]


def _is_epsilon(value: float) -> float:
    if value != WITHOUT_PROMISE and not 0 < value <= _LARGEST_EPSILON:
        raise ValueError(f"must be above 0 and at most {_LARGEST_EPSILON:g}, or inf for those that promise nothing")
    return value


Epsilon = Annotated[float, Field(allow_inf_nan=True), AfterValidator(_is_epsilon)]
Epsilons = Annotated[tuple[Epsilon, ...], Field(strict=False)]
"""Promises, one run under each; infinity is that of those that promise nothing."""


class DataSet(Strict):
    """A public data set: where it is, its schema from public knowledge, how it is dealt, and the promise.

    Attributes:
        source: a file in the folder that the command is given, or ``sklearn:NAME``.
        domain: reads the rows.
        target: the column to predict.
        sites: how many sites the rows are dealt to by chance, or the column that names a row's site.
        site_column: as in a study, where ``sites`` names a column; held-out rows have theirs, too.
        splits: ways to deal them, each of which is run; without, in equal parts or by the column.
        most_train: rows to train on at most.
        test_share: share of all rows that are held out, drawn by the run's seed.
        few: real rows of the small table whose gain by synthetic rows is measured.
        privacy: the terms of every study on it; each row is a unit. A plan's ``epsilons`` go before its epsilon.
        constraints: as in a study; models keep them, trivial models and peers do not know them.
    """

    name: Label
    source: Annotated[str, Field(pattern=r"^(sklearn:)?[A-Za-z0-9_.-]+$")]
    domain: Name = "table"
    target: Name
    sites: Annotated[int, Field(ge=2, le=100)] | Name
    site_column: Name | None = None
    splits: Annotated[tuple[Split, ...], Field(strict=False)] = ()
    most_train: Rows | None = None
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    few: Rows = 100
    privacy: Privacy
    columns: Columns
    constraints: Constraints = ()

    @property
    def is_table(self) -> bool:
        """Whether every column is one value."""
        return not any(isinstance(column, ArrayColumn) for column in self.columns)

    @property
    def trivial(self) -> tuple[str, ...]:
        """The trivial models that fit: naive Bayes where every column is one value and the target a category."""
        has_labels = any(column.name == self.target and isinstance(column, Categorical) for column in self.columns)
        return TRIVIAL if self.is_table and has_labels else (FLOOR,)

    @field_validator("privacy")
    @classmethod
    def _rows_are_units(cls, value: Privacy) -> Privacy:
        if value.unit is not None:
            raise ValueError("names a unit, but rows are dealt one by one; leave `unit` out")
        return value

    @model_validator(mode="after")
    def _constraints_can_be_kept(self) -> "DataSet":
        check_constraints(self.constraints, self.columns, self.target)
        return self

    @model_validator(mode="after")
    def _rows_have_a_site(self) -> "DataSet":
        check_site_column(self.site_column, [column.name for column in self.columns], self.target, None)
        if self.site_column is not None and isinstance(self.sites, int):
            raise ValueError("site_column: held-out rows have a site only where `sites` names the column; name it")
        return self

    @model_validator(mode="after")
    def _real_sites_are_dealt_already(self) -> "DataSet":
        if self.splits and isinstance(self.sites, str):
            raise ValueError(f"splits: the column {self.sites!r} deals the rows; leave `splits` out")
        return self

    def under(self, epsilon: float) -> "DataSet":
        """Return the same data set with another promise."""
        return self.model_copy(update={"privacy": self.privacy.model_copy(update={"epsilon": epsilon})})


class Contender(Strict):
    """A model as it is run on some of the data sets.

    Attributes:
        name: what the table calls it.
        plugin: the model plugin; by default the one of that name.
        data: the data sets to run it on.
        options: as under ``[model.options]`` of a study.
        clip_norm, sample_rate, steps: instead of the data set's.
        epsilons: instead of the plan's.
    """

    name: Label
    plugin: Name = ""
    data: Annotated[tuple[Label, ...], Field(min_length=1, strict=False)]
    options: dict[str, Any] = Field(default_factory=dict)
    clip_norm: float | None = None
    sample_rate: float | None = None
    steps: int | None = None
    epsilons: Epsilons = ()

    @field_validator("name")
    @classmethod
    def _some_are_reserved(cls, value: str) -> str:
        return _not_reserved(value)

    def privacy(self, data: DataSet) -> Privacy:
        """Return the terms of a data set with what this model sets itself."""
        own = {name: getattr(self, name) for name in ("clip_norm", "sample_rate", "steps")}
        chosen = data.privacy.model_dump() | {name: value for name, value in own.items() if value is not None}
        return Privacy.model_validate(chosen)


class Peer(Strict):
    """Another project's system, which gets the rows of all sites in one place.

    Attributes:
        name: what the table calls it.
        system: what it is.
        data: the data sets to run it on.
        options: of its own constructor.
        most_minutes: after which it is ended, and counts as failed.
        epsilons: instead of the plan's.
    """

    name: Label
    system: System
    data: Annotated[tuple[Label, ...], Field(min_length=1, strict=False)]
    options: dict[str, Any] = Field(default_factory=dict)
    most_minutes: Annotated[float, Field(gt=0)] = 60.0
    epsilons: Epsilons = ()

    @property
    def is_private(self) -> bool:
        """Whether it promises anything."""
        return self.system in ("aim", "mst")

    @field_validator("name")
    @classmethod
    def _some_are_reserved(cls, value: str) -> str:
        return _not_reserved(value)


def _not_reserved(name: str) -> str:
    if name in TRIVIAL:
        raise ValueError(f"must not be {name!r}, which is a trivial model's; choose another")
    return name
