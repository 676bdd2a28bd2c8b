"""A study's terms: everything the sites agree to before a record is read.

Never holds anything that was computed from private records.
"""

import json
import re
import tomllib
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from .cohort import Cohort, Mode, check_cohort, controlled
from .constraints import Constraints, check_constraints, free_columns
from .errors import ConfigError
from .errors import describe as describe  # by this name for whoever validates more than studies
from .ids import digest
from .keystream import StreamCipher
from .schema import Categorical, Columns, Name, Strict, check_columns
from .secagg.suites import KeyAgreement

FORMAT: Final = 1

LATER_TERMS: Final[tuple[tuple[str, str, object], ...]] = (
    ("aggregation", "key_agreement", "hybrid"),
    ("privacy", "sigma_floor", None),
    ("", "constraints", []),
    ("", "site_column", None),
    ("", "purpose", None),
)
"""Terms that format 1 got after studies of it had been agreed on, by table (none at the top) and name, with default.

A new term belongs here, and its default may never change: what a ledger has charged to a study counts by the study's
hash, so an unchanged study file must keep its hash in every version, or its caps would begin anew.
"""

Combination = Literal["sum", "median", "trimmed-mean"]

_STUDY_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _check_line(value: str) -> str:
    if not value.isprintable() or not value.strip():
        raise ValueError("must be one line of printable text")
    return value


Line = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_check_line)]
"""A sentence of a person to other persons: no control character reaches their terminals."""


class Privacy(Strict):
    """What is promised to one privacy unit, and the constants that the promise depends on.

    ``units_per_site`` is a declared upper bound on a site's units, never their number. A sampled
    unit contributes one uniformly drawn record of its own, so ``records_per_unit`` is a check of
    the data, not a price. ``sites_per_unit`` sites at most hold records of one unit (a patient of
    several hospitals); the promise is to such a unit as a whole. ``sigma_floor`` refuses a study in
    which one site alone would add less noise to a sum than that, in clip norms. ``steps`` are those of gradients, each
    of which is charged; a model may take several of them in one round. A site answers a round of gradients, all its
    steps done, a fixed ``answer_time_s`` after it was charged, and a statistic, which is rarer and larger, after
    ``statistic_time_s``.
    """

    mode: Mode
    epsilon: Annotated[float, Field(gt=0, le=100)]
    delta: Annotated[float, Field(gt=0, lt=0.01)]
    unit: Name | None = None
    records_per_unit: Annotated[int, Field(ge=1, le=100_000)] = 1
    sites_per_unit: Annotated[int, Field(ge=1, le=10)] = 1
    units_per_site: Annotated[int, Field(ge=1, le=10_000_000)]
    clip_norm: Annotated[float, Field(ge=1e-6, le=1e6)] = 1.0
    sigma_floor: Annotated[float, Field(gt=0)] | None = None
    sample_rate: Annotated[float, Field(gt=0, le=1)]
    steps: Annotated[int, Field(ge=1, le=100_000)]
    answer_time_s: Annotated[float, Field(ge=0.005, le=600)] = 0.25
    statistic_time_s: Annotated[float, Field(ge=0.005, le=600)] = 3.0

    @model_validator(mode="after")
    def _unitless_records_are_units(self) -> Self:
        if self.unit is None and self.records_per_unit != 1:
            raise ValueError("records_per_unit needs `unit`, the column that names a record's person or account")
        return self


class ModelTerms(Strict):
    """The model plugin, by its entry-point name, and its options."""

    plugin: Name
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("options")
    @classmethod
    def _options_have_one_encoding(cls, options: dict[str, Any]) -> dict[str, Any]:
        try:
            canonical_json(options)
        except (TypeError, ValueError):
            raise ValueError("must hold only text, finite numbers, booleans, lists and tables of these") from None
        return options


class Aggregation(Strict):
    """How the sites' vectors of one round become one.

    ``sum`` adds them up under masks. ``median`` and ``trimmed-mean`` (per coordinate, ``tolerated``
    values cut at either end, both scaled to the cohort as a sum is) withstand vectors that bad sites
    make up; for them the coordinator must see every site's own noised vector, so they need ``local``
    mode, in which that vector alone keeps the promise, and no masks are applied.

    ``clip_total`` is the largest norm of a released gradient sum in clip norms, for each step of a round: a longer
    one is scaled down before the model sees it. ``key_agreement`` says what the keys of masks rest on; X25519
    alone is a choice in ``local`` only, where no promise hangs on masks. ``mask_cipher`` is for sites
    without AES instructions.
    """

    combine: Combination = "sum"
    clip_total: Annotated[float, Field(gt=0)] | None = None
    key_agreement: KeyAgreement = "hybrid"
    mask_cipher: StreamCipher = "aes256-ctr"


class Study(Strict):
    """The terms of one joint training, as a TOML file states them.

    ``columns`` are those of the sites' files. With ``site_column`` a record has one more, last: its site's id, which
    the site's agent puts there; `released` has it among its columns. ``purpose`` says what the synthetic data are for.
    """

    format: Literal[1]
    name: str
    target: Name
    domain: Name = "table"
    site_column: Name | None = None
    purpose: Line | None = None
    privacy: Privacy
    model: ModelTerms
    cohort: Cohort
    aggregation: Aggregation = Aggregation()
    columns: Columns
    constraints: Constraints = ()

    @field_validator("name")
    @classmethod
    def _name_can_name_a_folder(cls, value: str) -> str:
        if not _STUDY_NAME.fullmatch(value):
            raise ValueError("must be 1-64 letters, digits, dots, underscores and hyphens, first a letter or digit")
        return value

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        names = [column.name for column in self.columns]
        check_site_column(self.site_column, names, self.target, self.privacy.unit)
        check_columns(self.released.columns)
        if self.target not in names:
            raise ValueError(f"target {self.target!r} is not among the columns; name one of them")
        target = self.columns[names.index(self.target)]
        if target.kind == "array":
            raise ValueError(f"target {self.target!r} is an array; name a column with one value in each record")
        if target.kind == "categorical" and len(target.values) < 2:
            raise ValueError(f"target {self.target!r} has one category only, so there is nothing to predict")
        if self.privacy.unit in names:
            raise ValueError(f"the unit column {self.privacy.unit!r} names persons and must not be a column to learn")
        check_constraints(self.constraints, self.columns, self.target)
        check_cohort(self.cohort, self.privacy.mode)
        _check_agreement(self.aggregation, self.privacy.mode)
        _check_combination(self.aggregation, self.cohort, self.privacy.mode)
        return self

    @property
    def canonical(self) -> bytes:
        """The terms as bytes that every party computes alike: JSON, sorted keys, no spaces.

        ``LATER_TERMS`` stand in it only where they differ from their default.
        """
        fields = self.model_dump(mode="json")
        fields["cohort"]["sites"].sort(key=lambda site: site["id"])
        for table, name, default in LATER_TERMS:
            terms = fields[table] if table else fields
            if terms[name] == default:
                del terms[name]
        return canonical_json(fields)

    @property
    def hash(self) -> bytes:
        """The digest of the canonical terms, 32 bytes."""
        return digest("study", self.canonical)

    @property
    def released(self) -> "Study":
        """The same terms of records as they are once read, and of the released ones: the site column is the last.

        Its categories are the roster in sorted order, for the order of a file's entries is no part of the hash.
        """
        if self.site_column is None:
            return self
        site = Categorical(name=self.site_column, values=self.cohort.roster)
        return self.model_copy(update={"columns": (*self.columns, site), "site_column": None})

    @property
    def free(self) -> "Study":
        """The same terms of the released columns that no constraint derives: what a model is made for and sees."""
        released = self.released
        if not self.constraints:
            return released
        columns = free_columns(released.columns, self.constraints)
        return released.model_copy(update={"columns": columns, "constraints": ()})

    @property
    def is_draft(self) -> bool:
        """Whether a site of the roster still lacks its key."""
        return any(not site.key for site in self.cohort.sites)


def check_site_column(site: str | None, columns: Sequence[str], target: str, unit: str | None) -> None:
    """Raise ValueError where the site column is a column of files, the target or the unit column."""
    if site is None:
        return
    if site in columns:
        raise ValueError(
            f"site_column {site!r} is among the columns, but a site's agent alone says whose a record is; take it out "
            "of the columns and of the sites' files"
        )
    if site == target:
        # It has one value at every site: to predict it is to find out where a record came from.
        raise ValueError(f"target {target!r} is the site column, which no data should help to predict; name another")
    if site == unit:
        raise ValueError(f"site_column {site!r} is the unit column, which names persons; give it another name")


def _check_agreement(aggregation: Aggregation, mode: Mode) -> None:
    if mode == "distributed" and aggregation.key_agreement != "hybrid":
        raise ValueError(
            f"aggregation.key_agreement = {aggregation.key_agreement!r} needs "
            'privacy.mode = "local": in `distributed`, traffic recorded today and X25519 broken later would leave one '
            'site\'s share of the noise; use "hybrid"'
        )


def _check_combination(aggregation: Aggregation, cohort: Cohort, mode: Mode) -> None:
    if aggregation.combine == "sum":
        return
    if mode != "local":
        raise ValueError(
            f"aggregation.combine = {aggregation.combine!r} needs to see every site's own vector, which only "
            'privacy.mode = "local" protects; change one of them'
        )
    _, largest, operated = controlled(cohort.sites, cohort.operator)
    if largest + operated > cohort.tolerated:
        raise ValueError(
            f"aggregation.combine = {aggregation.combine!r} must withstand all sites of one controller; raise "
            f"cohort.tolerated to {largest + operated}"
        )
    if cohort.quorum <= 2 * cohort.tolerated:
        raise ValueError(
            f"aggregation.combine = {aggregation.combine!r} withstands {cohort.tolerated} bad sites only in cohorts "
            f"of more than {2 * cohort.tolerated}; raise cohort.quorum"
        )


def canonical_json(value: object) -> bytes:
    """Return JSON bytes with sorted keys and no spaces; NaN and infinity raise ValueError."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def parse_study(text: str, *, where: str) -> Study:
    """Return the study that a TOML text states.

    Args:
        text: the content of a study file.
        where: the file's name, for the error message.

    Raises:
        ConfigError: naming the file, the field and what is wrong with it.
    """
    fields: object = None
    try:
        fields = tomllib.loads(text)
        return Study.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(describe(error, fields), where=where) from None
    except (ValueError, RecursionError) as error:  # also numbers and nesting beyond the parser's limits
        raise ConfigError(f"is not valid TOML: {error}", where=where) from None
