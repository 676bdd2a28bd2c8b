"""Identity keys that this coordinator no longer takes: none of them gets into a roster, an enrolment or a run.

Never takes a key back off the list, and never lets a revoked key decide which one follows it.
"""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, TypeAdapter, ValidationError

from synthfed.plugins.files import read_text, write_whole
from synthfed.protocols.cohort import Site
from synthfed.protocols.enrolment import Enrolment
from synthfed.protocols.errors import ConfigError, describe
from synthfed.protocols.ids import FINGERPRINT, fingerprint
from synthfed.protocols.schema import Strict
from synthfed.protocols.signed import decoded

_MOST: Final = 4096


class Revoked(Strict):
    """A key that was revoked, as people compare keys, and when; of which site, where that was known."""

    key: Annotated[str, Field(pattern=f"^{FINGERPRINT}$")]
    site: str = ""
    at: str


_LIST: Final = TypeAdapter(Annotated[tuple[Revoked, ...], Field(max_length=_MOST, strict=False)])


def read_revoked(path: Path) -> dict[str, Revoked]:
    """Return what was revoked, by fingerprint; ConfigError where the list is there and cannot be read."""
    if not path.exists():
        return {}
    try:
        found: tuple[Revoked, ...] = _LIST.validate_json(read_text(path))
    except ValidationError as error:
        raise ConfigError(f"{describe(error)}; restore it", where=str(path)) from None
    return {each.key: each for each in found}


def add_revoked(path: Path, named: str, enrolled: dict[str, Enrolment], now_unix_s: float) -> tuple[Revoked, str]:
    """Put a key on the list, and return it and the enrolled site whose key it is, empty for none.

    Args:
        path: the list's.
        named: an enrolled site's name, or a key's fingerprint.
        enrolled: every enrolled site.
        now_unix_s: the present time.

    Raises:
        ConfigError: no such site is enrolled, or the list cannot be read or written.
    """
    if re.fullmatch(FINGERPRINT, named):
        key = named
    elif named in enrolled:
        key = fingerprint(decoded(enrolled[named].identity))
    else:
        raise ConfigError("is neither an enrolled site nor the fingerprint of an identity key", where=named)
    site = next((name for name, each in enrolled.items() if fingerprint(decoded(each.identity)) == key), "")
    known = read_revoked(path)
    at = datetime.fromtimestamp(int(now_unix_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    revoked = known.setdefault(key, Revoked(key=key, site=site, at=at))
    listed = [each.model_dump() for each in known.values()]
    write_whole(path, [json.dumps(listed, indent=1).encode(), b"\n"])
    return revoked, site


def demand_unrevoked(path: Path, sites: tuple[Site, ...], *, where: str) -> None:
    """Raise ConfigError where one of these sites, each of which has a key, has a revoked one."""
    revoked = read_revoked(path)
    for site in sites:
        found = revoked.get(fingerprint(site.public_key))
        if found is not None:
            raise ConfigError(
                f"has the key {found.key} of site {site.id!r}, which was revoked on {found.at[:10]}; take its new "
                "enrolment, or leave the site out, and agree on the new terms",
                where=where,
            )


def led_to(key: str, enrolled: dict[str, Enrolment]) -> list[str]:
    """Return the sites whose enrolled key an earlier one, given by its fingerprint, has signed the way to."""
    return [
        name for name, each in enrolled.items() if any(fingerprint(decoded(row.old)) == key for row in each.rotations)
    ]


def is_rotated(known: Enrolment, enrolment: Enrolment, revoked: dict[str, Revoked]) -> bool:
    """Return whether a verified enrolment differs from the known one by rotations alone, none of a revoked key."""
    is_same = (known.controller, known.node) == (enrolment.controller, enrolment.node)
    earlier = [each.old for each in enrolment.rotations]
    if not is_same or not enrolment.follows(known.identity):
        return False
    signers = earlier[earlier.index(known.identity) :]
    return not any(fingerprint(decoded(key)) in revoked for key in signers)
