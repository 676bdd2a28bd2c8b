"""Who takes part in a study: its sites, who controls them, how many may be bad and how many must answer.

Never trusts a spelling: one key, one name and one controller count once however they are written.
"""

import base64
import binascii
import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from .ids import SITE_ID
from .schema import Strict
from .secagg.keys import is_identity

MAX_SITES: Final = 50

Mode = Literal["distributed", "local"]


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


def least_quorum(sites: int, tolerated: int, mode: Mode) -> int:
    """Return the smallest quorum the policy allows (secure-aggregation policy, rule n_min).

    In ``distributed`` at least two sites beyond the bad ones must add noise; in ``local`` every
    site's own noise suffices and the quorum only keeps most of the cohort together.
    """
    two_thirds = math.ceil(2 * sites / 3)
    return max(tolerated + 2, two_thirds) if mode == "distributed" else max(2, two_thirds)


def least_tolerated(sites: Sequence[Site], operator: str = "") -> int:
    """Return the default number of bad sites: a third, or one controller's, and those of the coordinator's operator."""
    _, largest, operated = controlled(sites, operator)
    return max(largest, (len(sites) - 1) // 3) + operated


def check_cohort(cohort: Cohort, mode: Mode) -> None:
    """Raise ValueError unless tolerated and quorum are what the policy allows for the roster in this mode."""
    sites, tolerated = len(cohort.sites), cohort.tolerated
    if mode == "distributed" and sites < tolerated + 2:
        raise ValueError(
            f"cohort: `distributed` with {tolerated} tolerated needs at least {tolerated + 2} sites, "
            f'the roster has {sites}; use mode = "local"'
        )
    name, largest, operated = controlled(cohort.sites, cohort.operator)
    if largest + operated > tolerated and mode == "distributed":
        more = f" and the coordinator's operator {operated} more" if operated else ""
        raise ValueError(
            f"cohort.tolerated is {tolerated} but controller {name!r} runs {largest} sites{more}; raise it to "
            f"{largest + operated}"
        )
    least = least_quorum(sites, tolerated, mode)
    if cohort.quorum < least:
        raise ValueError(f"cohort.quorum must be at least {least} for {sites} sites with {tolerated} tolerated")


def controlled(sites: Sequence[Site], operator: str) -> tuple[str, int, int]:
    """Return the controller of most sites and their number, and that of the coordinator's operator."""
    counts = Counter(_folded(site.controller) or site.id for site in sites)
    operated = counts.pop(_folded(operator), 0)
    (name, largest), *_ = counts.most_common(1) or [("", 0)]
    return name, largest, operated


def _folded(name: str) -> str:
    """Return a name in which spelling, case and spaces make no second controller."""
    return " ".join(unicodedata.normalize("NFKC", name).split()).casefold()
