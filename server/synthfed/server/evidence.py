"""What was promised and what was spent: the machine-readable evidence that travels with a release.

Never holds anything but public terms, counts and hashes.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError, field_validator

from synthfed.protocols.cohort import Mode
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import Strict
from synthfed.protocols.secagg.suites import KeyAgreement
from synthfed.protocols.study import Combination, describe

FORMAT: Final = 1

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, Field(min_length=1, max_length=200)]
Epsilon = Annotated[float, Field(ge=0)]
Delta = Annotated[float, Field(ge=0, lt=1)]
Setting = Literal["federation", "simulation"]
"""Whether every site kept its own table, or all tables were in one place."""

Count = Annotated[int, Field(ge=0)]
Curve = tuple[tuple[Count, Epsilon | None], ...]
"""Epsilon by number of sites; None where no finite bound is known."""


class SumEvidence(Strict):
    """One kind of private sum: its mechanism and how often it was released.

    ``cap`` is the number of rounds the promise pays for, ``rounds_released`` how many were used, ``steps`` those of
    one round at each site, each a mechanism of its own;
    ``own_noise`` is the least noise of one site alone, in units of ``clip_norm`` (None: not stated).
    """

    name: Text
    family: Literal["statistic", "gradient"]
    dim: Annotated[int, Field(ge=1)]
    noise_multiplier: Annotated[float, Field(gt=0)]
    own_noise: Annotated[float, Field(gt=0)] | None = None
    sample_rate: Annotated[float, Field(gt=0, le=1)]
    clip_norm: Annotated[float, Field(gt=0)]
    cap: Annotated[int, Field(ge=1)]
    rounds_released: Count
    steps: Annotated[int, Field(ge=1)] = 1


class SiteEvidence(Strict):
    """One site: who it is and the privacy loss charged there, for the rounds it was asked to answer."""

    id: Text
    controller: Annotated[str, Field(max_length=200)] = ""
    key_fingerprint: Text
    epsilon_spent: Epsilon
    delta: Delta
    rounds: Count


class PluginEvidence(Strict):
    """A plugin that the sites pinned."""

    name: Text
    distribution: Text
    version: Text
    hash: Hash


class Evidence(Strict):
    """The evidence of one study's training.

    Attributes:
        epsilon: promised to one privacy unit if every cap were used up, together with ``delta``.
        setting: a simulation spends from a budget of its own, outside any site's ledger.
        sites_per_unit: at how many sites a unit may have records for the promise to hold as a whole.
        epsilon_if_secagg_fails: the same if everyone but one site pooled what they saw; None if
            no finite bound is known.
        epsilon_by_bad_sites: the same by number of sites that work with the coordinator.
        epsilon_by_sites_of_unit: the same by number of sites that hold a unit.
        sigma_floor: what no sum's ``own_noise`` may be below, if the terms say so.
        plugin: the model.
        domain: what read the sites' data and wrote the release; None: not stated.
        versions: of the software that trained, by distribution.
        started: ISO 8601 with a time zone; ``ended`` likewise.
        seed_note: where the public seeds came from, and that the noise was not drawn from them.
    """

    format: Literal[1] = 1
    setting: Setting = "federation"
    study: Text
    study_hash: Hash
    mode: Mode
    combine: Combination
    key_agreement: KeyAgreement = "hybrid"
    tolerated: Count
    quorum: Count
    delta: Delta
    epsilon: Epsilon
    epsilon_if_secagg_fails: Epsilon | None
    sites_per_unit: Annotated[int, Field(ge=1)]
    epsilon_by_bad_sites: Curve
    epsilon_by_sites_of_unit: Curve
    clip_norm: Annotated[float, Field(gt=0)]
    sigma_floor: Annotated[float, Field(gt=0)] | None = None
    sums: tuple[SumEvidence, ...]
    sites: tuple[SiteEvidence, ...]
    plugin: PluginEvidence
    domain: PluginEvidence | None = None
    versions: dict[str, str]
    started: str
    ended: str
    seed_note: str

    @field_validator("started", "ended")
    @classmethod
    def _time_has_a_zone(cls, value: str) -> str:
        if datetime.fromisoformat(value).tzinfo is None:
            raise ValueError("must be an ISO 8601 time with a time zone, such as 2030-01-31T12:00:00+00:00")
        return value

    def to_json(self) -> str:
        """Return the evidence as indented JSON with sorted keys."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str) -> Evidence:
        """Return the evidence that JSON text states.

        Args:
            text: what ``to_json`` returned.
            where: the file's name, for the error message.

        Raises:
            ConfigError: naming the file, the field and what is wrong with it.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ConfigError(describe(error), where=where) from None
