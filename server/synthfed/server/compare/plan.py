"""The plan of a comparison: data sets with their public schemas, models with their options, and seeds.

Never holds a result, and never lets a model have another promise than the data set's.
"""

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from synthfed.protocols.constraints import Constraints, check_constraints
from synthfed.protocols.errors import ConfigError, describe
from synthfed.protocols.ids import digest
from synthfed.protocols.schema import ArrayColumn, Categorical, Columns, Name, Strict
from synthfed.protocols.study import Privacy, canonical_json

from ..wishes import pairs

FLOOR: Final = "floor"
"""The reserved name of the trivial model that every other one has to beat."""
BAYES: Final = "naive-bayes"
"""The reserved name of noisy naive Bayes as a model of tables: simple, and on many tables hard to beat."""
TRIVIAL: Final = (FLOOR, BAYES)

_LABEL: Final = r"^[a-z0-9][a-z0-9_-]{0,30}$"  # two of them name a study
Label = Annotated[str, Field(pattern=_LABEL)]
Rows = Annotated[int, Field(ge=1)]
_KEYS: Final = ("model", "data", "seed")


class DataSet(Strict):
    """A public data set: where it is, its schema from public knowledge, how it is dealt, and the promise.

    Attributes:
        source: a file in the folder that the command is given, or ``sklearn:NAME``.
        domain: reads the rows.
        target: the column to predict.
        sites: how many sites the rows are dealt to by chance, or the column that names a row's site.
        most_train: rows to train on at most.
        test_share: share of all rows that are held out, drawn by the run's seed.
        few: real rows of the small table whose gain by synthetic rows is measured.
        privacy: the terms of every study on it; each row is a unit.
        constraints: as in a study; models keep them, the trivial ones do not know them.
    """

    name: Label
    source: Annotated[str, Field(pattern=r"^(sklearn:)?[A-Za-z0-9_.-]+$")]
    domain: Name = "table"
    target: Name
    sites: Annotated[int, Field(ge=2, le=100)] | Name
    most_train: Rows | None = None
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    few: Rows = 100
    privacy: Privacy
    columns: Columns
    constraints: Constraints = ()

    @property
    def trivial(self) -> tuple[str, ...]:
        """The trivial models that fit: naive Bayes where every column is one value and the target a category."""
        is_table = not any(isinstance(column, ArrayColumn) for column in self.columns)
        has_labels = any(column.name == self.target and isinstance(column, Categorical) for column in self.columns)
        return TRIVIAL if is_table and has_labels else (FLOOR,)

    @field_validator("privacy")
    @classmethod
    def _rows_are_units(cls, value: Privacy) -> Privacy:
        if value.unit is not None:
            raise ValueError("names a unit, but rows are dealt one by one; leave `unit` out")
        return value

    @model_validator(mode="after")
    def _constraints_can_be_kept(self) -> Self:
        check_constraints(self.constraints, self.columns, self.target)
        return self


class Contender(Strict):
    """A model as it is run on some of the data sets.

    Attributes:
        name: what the table calls it.
        plugin: the model plugin; by default the one of that name.
        data: the data sets to run it on.
        options: as under ``[model.options]`` of a study.
        clip_norm, sample_rate, steps: instead of the data set's.
    """

    name: Label
    plugin: Name = ""
    data: Annotated[tuple[Label, ...], Field(min_length=1, strict=False)]
    options: dict[str, Any] = Field(default_factory=dict)
    clip_norm: float | None = None
    sample_rate: float | None = None
    steps: int | None = None

    @field_validator("name")
    @classmethod
    def _some_are_reserved(cls, value: str) -> str:
        if value in TRIVIAL:
            raise ValueError(f"must not be {value!r}, which is a trivial model's; choose another")
        return value

    def privacy(self, data: DataSet) -> Privacy:
        """Return the terms of a data set with what this model sets itself."""
        own = {name: getattr(self, name) for name in ("clip_norm", "sample_rate", "steps")}
        chosen = data.privacy.model_dump() | {name: value for name, value in own.items() if value is not None}
        return Privacy.model_validate(chosen)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One run of the plan; ``model`` is the name alone for a trivial one."""

    model: Contender | str
    data: DataSet
    seed: int

    @property
    def key(self) -> tuple[str, str, int]:
        """The names of model and data set, and the seed: what a result is found by."""
        name = self.model if isinstance(self.model, str) else self.model.name
        return (name, self.data.name, self.seed)

    @property
    def terms(self) -> str:
        """The digest of everything that the plan says of this run; a result of other terms does not count."""
        model = self.model if isinstance(self.model, str) else self.model.model_dump(mode="json", exclude={"data"})
        # Results from before there were constraints go on counting.
        data = self.data.model_dump(mode="json", exclude=None if self.data.constraints else {"constraints"})
        return digest("comparison", canonical_json([model, data, self.seed])).hex()[:16]


class Plan(Strict):
    """Everything that is to be run: each model on its data sets with each seed."""

    format: Literal[1]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1, strict=False)]
    data: Annotated[tuple[DataSet, ...], Field(min_length=1, strict=False)]
    models: Annotated[tuple[Contender, ...], Field(min_length=1, strict=False)]

    @model_validator(mode="after")
    def _names_are_clear(self) -> Self:
        known = [each.name for each in self.data]
        twice = next((name for name in known if known.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"data {twice!r} is there twice; give each its own name")
        entered = [(model.name, name) for model in self.models for name in model.data]
        again = next((entry for entry in entered if entered.count(entry) > 1), None)
        if again is not None:
            raise ValueError(f"model {again[0]!r} is there twice for data {again[1]!r}; name one of them otherwise")
        lost = next((entry for entry in entered if entry[1] not in known), None)
        if lost is not None:
            raise ValueError(f"model {lost[0]!r} asks for data {lost[1]!r}, which is not in the plan")
        return self

    def wanted(self) -> Iterator[Wanted]:
        """Yield every run, the trivial ones too: seed by seed, so that the whole table is there after the first."""
        for seed in self.seeds:
            for data in self.data:
                yield from (Wanted(name, data, seed) for name in data.trivial)
                yield from (Wanted(model, data, seed) for model in self.models if data.name in model.data)


def parse_plan(text: str, *, where: str) -> Plan:
    """Return the plan that a TOML text states; ConfigError names the file, the field and what is wrong with it."""
    fields: object = None
    try:
        fields = tomllib.loads(text)
        return Plan.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(describe(error, fields), where=where) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"is not valid TOML: {error}", where=where) from None


def choose(plan: Plan, only: Sequence[str]) -> tuple[Wanted, ...]:
    """Return the plan's runs that meet any of the filters, or all if there is none.

    The trivial models of the data sets that are run come along: without them no row could be judged.

    Args:
        plan: the plan.
        only: texts ``model=NAME,data=NAME,seed=NUMBER``, each part optional.

    Raises:
        ConfigError: a filter is not of this form, or no run meets it.
    """
    runs = tuple(plan.wanted())
    if not only:
        return runs
    chosen = set[tuple[str, str, int]]()
    for text in only:
        met = [run.key for run in runs if _meets(run, text)]
        if not met:
            raise ConfigError(f"no run of the plan meets {text!r}; check the names", where="--only")
        chosen.update(met)
        chosen.update((name, data, seed) for _, data, seed in met for name in TRIVIAL)
    return tuple(run for run in runs if run.key in chosen)


def _meets(run: Wanted, text: str) -> bool:
    parts = pairs(re.split(r"\s*,\s*", text), "model=NAME, data=NAME or seed=NUMBER", where="--only")
    unknown = next((name for name in parts if name not in _KEYS), None)
    if unknown is not None:
        raise ConfigError(f"{unknown!r} must be one of {', '.join(_KEYS)}", where="--only")
    own = dict(zip(_KEYS, map(str, run.key), strict=True))
    return all(own[name] == value for name, value in parts.items())
