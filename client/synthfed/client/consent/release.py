"""The end of a study at a site: what was reserved for it and not used is free again.

Never takes back a charge, and never lets a released study go on without a new approval.
"""

import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass

from synthfed.protocols.errors import ConfigError

from ..books.audit_log import AuditLog
from ..config import Home
from ..keys.identity import Unlock, load_identity, locked
from ..reservation import Reservation
from ..vault import Ledger
from .decisions import next_time, read_decisions


@dataclass(frozen=True, slots=True)
class Released:
    """What was given back.

    Attributes:
        study: hash of the study's terms.
        study_name: for people.
        unused: rounds of each sum that were never asked for.
    """

    study: bytes
    study_name: str
    unused: dict[str, int]


def release(home: Home, wanted: str | None, unlock: Unlock = locked) -> Released:
    """Give back what a study has not used, also beside a running agent, which then stops serving it.

    Args:
        home: the site's.
        wanted: the study's name, or the beginning of its terms' hash; None for the only one with a reservation.
        unlock: gives the passphrase of the site's identity.

    Raises:
        ConfigError: nothing is reserved for such a study, or several are meant.
        PrivacyError: the ledger is missing, was changed or cannot be written.
    """
    identity = load_identity(home.identity, unlock)
    with contextlib.closing(Ledger(home.ledger, identity)) as ledger:
        found = _named(ledger.book.reserved.values(), wanted)
        decisions, _ = read_decisions(home.decisions)
        earlier_unix_s = ledger.blocked_unix_s(found.study)
        ledger.release(found.study, next_time(decisions, found.study.hex(), earlier_unix_s, int(time.time())))
        with contextlib.closing(AuditLog(home.audit_log, identity)) as log:
            log.note("study-released", who="operator", study=found.study_name, terms=found.study.hex())
        return Released(found.study, found.study_name, found.rounds_left(ledger.book.rounds))


def _named(reservations: Iterable[Reservation], wanted: str | None) -> Reservation:
    every = sorted(reservations, key=lambda each: (each.study_name, each.study))
    found = [each for each in every if wanted in (None, each.study_name) or each.study.hex().startswith(str(wanted))]
    if len(found) != 1:
        there = ", ".join(f"{each.study_name} ({each.study.hex()[:12]})" for each in every) or "nothing"
        raise ConfigError(
            f"names {len(found)} studies with a reservation; give the name, or the beginning of the terms' number, of "
            f"one of these: {there}",
            where="STUDY",
        )
    return found[0]
