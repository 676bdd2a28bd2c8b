"""A study's terms: everything the sites agree to before a record is read.

Never holds anything that was computed from private records.
"""

import base64
import binascii
import json
import math
import re
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from .errors import ConfigError
from .errors import describe as describe  # by this name for whoever validates more than studies
from .ids import SITE_ID, digest
from .keystream import StreamCipher
from .schema import Columns, Name, Strict, check_columns
from .secagg.keys import is_identity

FORMAT: Final = 1
MAX_SITES: Final = 50

Mode = Literal["distributed", "local"]
Combination = Literal["sum", "median", "trimmed-mean"]

_STUDY_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Privacy(Strict):
    """What is promised to one privacy unit, and the constants that the promise depends on.

    ``units_per_site`` is a declared upper bound on a site's units, never their number. A sampled
    unit contributes one uniformly drawn record of its own, so ``records_per_unit`` is a check of
    the data, not a price. ``sites_per_unit`` sites at most hold records of one unit (a patient of
    several hospitals); the promise is to such a unit as a whole. A site answers a gradient step a
    fixed ``answer_time_s`` after it was charged, and a statistic, which is rarer and larger, after
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


class Site(Strict):
    """One site of the roster: its name, Ed25519 public key (base64) and who controls it.

    ``key`` is empty in a draft only. Sites under one controller are counted as one adversary.
    """

    id: str
    key: str = ""
    controller: str = ""

    @field_validator("id")
    @classmethod
    def _id_is_a_site_name(cls, value: str) -> str:
        if not SITE_ID.fullmatch(value):
            raise ValueError("must be 1-32 lower-case letters, digits and inner hyphens")
        return value

    @field_validator("key")
    @classmethod
    def _key_is_32_bytes(cls, value: str) -> str:
        try:
            key = base64.b64decode(value, validate=True)
        except binascii.Error:
            key = b""
        # One key has one spelling, so that one roster has one hash and a key cannot stand in it twice.
        if value and (not is_identity(key) or base64.b64encode(key).decode() != value):
            raise ValueError("must be an Ed25519 public key: 32 bytes in base64, no point of small order")
        return value

    @property
    def public_key(self) -> bytes:
        """The raw Ed25519 public key, 32 bytes (empty in a draft)."""
        return base64.b64decode(self.key)


class Aggregation(Strict):
    """How the sites' vectors of one round become one.

    ``sum`` adds them up under masks. ``median`` and ``trimmed-mean`` (per coordinate, ``tolerated``
    values cut at either end, both scaled to the cohort as a sum is) withstand vectors that bad sites
    make up; for them the coordinator must see every site's own noised vector, so they need ``local``
    mode, in which that vector alone keeps the promise, and no masks are applied.

    ``clip_total`` is the largest norm of a released gradient sum in clip norms: a longer one is
    scaled down before the model sees it. ``mask_cipher`` is for sites without AES instructions.
    """

    combine: Combination = "sum"
    clip_total: Annotated[float, Field(gt=0)] | None = None
    mask_cipher: StreamCipher = "aes256-ctr"


class Cohort(Strict):
    """Who takes part: at most ``tolerated`` sites may be bad, at least ``quorum`` answer each step.

    ``operator`` names who runs the coordinator: sites under the same controller count as bad always.
    ``epsilon_if_secagg_fails_at_most`` refuses a study in which the promise would fall further
    than that if every other site colluded with the coordinator.
    """

    tolerated: Annotated[int, Field(ge=1)]
    quorum: Annotated[int, Field(ge=2)]
    operator: str = ""
    epsilon_if_secagg_fails_at_most: Annotated[float, Field(gt=0)] | None = None
    sites: Annotated[tuple[Site, ...], Field(min_length=2, max_length=MAX_SITES, strict=False)]

    @model_validator(mode="after")
    def _roster_is_consistent(self) -> Self:
        ids = [site.id for site in self.sites]
        if len(set(ids)) != len(ids):
            raise ValueError("lists a site twice; list each once")
        keys = [site.key for site in self.sites if site.key]
        if len(set(keys)) != len(keys):
            raise ValueError("two sites share one key; every site makes its own with `synthfed client init`")
        if self.quorum > len(ids):
            raise ValueError(f"quorum is {self.quorum} but the roster has {len(ids)} sites; lower it")
        return self

    @property
    def roster(self) -> tuple[str, ...]:
        """The site names in sorted order, the order that masks and hashes use."""
        return tuple(sorted(site.id for site in self.sites))

    @property
    def keys(self) -> dict[str, bytes]:
        """Each site's Ed25519 public key."""
        return {site.id: site.public_key for site in self.sites}


class Study(Strict):
    """The terms of one joint training, as a TOML file states them."""

    format: Literal[1]
    name: str
    target: Name
    domain: Name = "table"
    privacy: Privacy
    model: ModelTerms
    cohort: Cohort
    aggregation: Aggregation = Aggregation()
    columns: Columns

    @field_validator("name")
    @classmethod
    def _name_can_name_a_folder(cls, value: str) -> str:
        if not _STUDY_NAME.fullmatch(value):
            raise ValueError("must be 1-64 letters, digits, dots, underscores and hyphens, first a letter or digit")
        return value

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        check_columns(self.columns)
        names = [column.name for column in self.columns]
        if self.target not in names:
            raise ValueError(f"target {self.target!r} is not among the columns; name one of them")
        target = self.columns[names.index(self.target)]
        if target.kind == "array":
            raise ValueError(f"target {self.target!r} is an array; name a column with one value in each record")
        if target.kind == "categorical" and len(target.values) < 2:
            raise ValueError(f"target {self.target!r} has one category only, so there is nothing to predict")
        if self.privacy.unit in names:
            raise ValueError(f"the unit column {self.privacy.unit!r} names persons and must not be a column to learn")
        _check_cohort(self.cohort, self.privacy.mode)
        _check_combination(self.aggregation, self.cohort, self.privacy.mode)
        return self

    @property
    def canonical(self) -> bytes:
        """The terms as bytes that every party computes alike: JSON, sorted keys, no spaces."""
        fields = self.model_dump(mode="json")
        fields["cohort"]["sites"].sort(key=lambda site: site["id"])
        return canonical_json(fields)

    @property
    def hash(self) -> bytes:
        """The digest of the canonical terms, 32 bytes."""
        return digest("study", self.canonical)

    @property
    def is_draft(self) -> bool:
        """Whether a site of the roster still lacks its key."""
        return any(not site.key for site in self.cohort.sites)


def least_quorum(sites: int, tolerated: int, mode: Mode) -> int:
    """Return the smallest quorum the policy allows (secure-aggregation policy, rule n_min).

    In ``distributed`` at least two sites beyond the bad ones must add noise; in ``local`` every
    site's own noise suffices and the quorum only keeps most of the cohort together.
    """
    two_thirds = math.ceil(2 * sites / 3)
    return max(tolerated + 2, two_thirds) if mode == "distributed" else max(2, two_thirds)


def least_tolerated(sites: Sequence[Site], operator: str = "") -> int:
    """Return the default number of bad sites: a third, or one controller's, and those of the coordinator's operator."""
    _, largest, operated = _controlled(sites, operator)
    return max(largest, (len(sites) - 1) // 3) + operated


def _check_cohort(cohort: Cohort, mode: Mode) -> None:
    sites, tolerated = len(cohort.sites), cohort.tolerated
    if mode == "distributed" and sites < tolerated + 2:
        raise ValueError(
            f"cohort: `distributed` with {tolerated} tolerated needs at least {tolerated + 2} sites, "
            f'the roster has {sites}; use mode = "local"'
        )
    name, largest, operated = _controlled(cohort.sites, cohort.operator)
    if largest + operated > tolerated and mode == "distributed":
        more = f" and the coordinator's operator {operated} more" if operated else ""
        raise ValueError(
            f"cohort.tolerated is {tolerated} but controller {name!r} runs {largest} sites{more}; raise it to "
            f"{largest + operated}"
        )
    least = least_quorum(sites, tolerated, mode)
    if cohort.quorum < least:
        raise ValueError(f"cohort.quorum must be at least {least} for {sites} sites with {tolerated} tolerated")


def _controlled(sites: Sequence[Site], operator: str) -> tuple[str, int, int]:
    """Return the controller of most sites and their number, and that of the coordinator's operator."""
    counts = Counter(_folded(site.controller) or site.id for site in sites)
    operated = counts.pop(_folded(operator), 0)
    (name, largest), *_ = counts.most_common(1) or [("", 0)]
    return name, largest, operated


def _folded(name: str) -> str:
    """Return a name in which spelling, case and spaces make no second controller."""
    return " ".join(unicodedata.normalize("NFKC", name).split()).casefold()


def _check_combination(aggregation: Aggregation, cohort: Cohort, mode: Mode) -> None:
    if aggregation.combine == "sum":
        return
    if mode != "local":
        raise ValueError(
            f"aggregation.combine = {aggregation.combine!r} needs to see every site's own vector, which only "
            'privacy.mode = "local" protects; change one of them'
        )
    _, largest, operated = _controlled(cohort.sites, cohort.operator)
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
