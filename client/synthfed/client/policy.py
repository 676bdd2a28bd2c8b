"""What a site allows: the table ``[policy]`` of its ``site.toml``, each field a rule, an absent one no rule.

Never holds anything that a coordinator said: a person at the site writes it.
"""

from typing import Annotated, Self

from pydantic import Field, model_validator

from synthfed.plugins.api import Keep
from synthfed.protocols.cohort import MAX_SITES, Mode
from synthfed.protocols.ids import FINGERPRINT
from synthfed.protocols.schema import Name, Strict

from .hours import Hours, parse_hours

Epsilon = Annotated[float, Field(gt=0, le=100)]
Text = Annotated[str, Field(min_length=1, max_length=500)]
Fingerprint = Annotated[str, Field(pattern=f"^{FINGERPRINT}$")]


class PluginPin(Strict):
    """Code that a person has looked at: a plugin's distribution, its version, and the hash of all its files."""

    distribution: Name
    version: Name
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Consent(Strict):
    """The column that says whether a record may be used, and what it must hold then."""

    column: Name
    accepted: Annotated[tuple[Text, ...], Field(min_length=1, strict=False)]

    @property
    def keep(self) -> Keep:
        """Which rows a reader keeps."""
        return Keep(self.column, frozenset(each.strip() for each in self.accepted))


class SitePolicy(Strict):
    """The rules of a site beyond its ceiling in total.

    Attributes:
        epsilon_per_study: the most that one study may promise, and its charges come to.
        epsilon_per_year: the most that all charges of the last 365 days may come to.
        least_sites: the least quorum.
        least_honest: the least number of sites of a quorum that are not tolerated to be bad.
        modes: the modes allowed.
        sigma_floor: the least noise that this site alone adds in each step of each sum, in clip norms.
        plugins: the code allowed, of models and domains.
        deny_columns: columns that never leave.
        consent: which rows may be used.
        purposes: the purposes allowed, as the terms must state one of them.
        revoked_keys: fingerprints of identity keys with which this site does not work.
        open: when steps are answered, such as ``mon-fri 08:00-18:00``.
        zone: of these hours: a name such as ``Europe/Berlin``, or an offset such as ``+01:00``.
    """

    epsilon_per_study: Epsilon | None = None
    epsilon_per_year: Epsilon | None = None
    least_sites: Annotated[int, Field(ge=2, le=MAX_SITES)] | None = None
    least_honest: Annotated[int, Field(ge=1, le=MAX_SITES)] | None = None
    modes: Annotated[tuple[Mode, ...], Field(min_length=1, strict=False)] | None = None
    sigma_floor: Annotated[float, Field(gt=0)] | None = None
    plugins: Annotated[tuple[PluginPin, ...], Field(min_length=1, strict=False)] | None = None
    deny_columns: Annotated[tuple[Name, ...], Field(strict=False)] = ()
    consent: Consent | None = None
    purposes: Annotated[tuple[Text, ...], Field(min_length=1, strict=False)] | None = None
    revoked_keys: Annotated[tuple[Fingerprint, ...], Field(max_length=4096, strict=False)] = ()
    open: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] | None = None
    zone: str = "UTC"

    @model_validator(mode="after")
    def _hours_can_be_told(self) -> Self:
        try:
            parse_hours(self.open or (), self.zone)
        except ValueError as error:
            raise ValueError(f"open or zone: {error}") from None
        return self

    @property
    def hours(self) -> Hours | None:
        """The opening hours; None where the site is always open."""
        return None if self.open is None else parse_hours(self.open, self.zone)

    @property
    def keep(self) -> Keep | None:
        """Which rows a reader keeps; None for all."""
        return None if self.consent is None else self.consent.keep
