"""Reads a ledger of format 1, whose charges alone were chained, and returns all of it as entries of format 2.

Never writes, and never takes over a ledger whose chain does not hold.
"""

import sqlite3
from pathlib import Path
from typing import Final

from synthfed.protocols.errors import PrivacyError
from synthfed.protocols.ids import digest
from synthfed.protocols.privacy.accountant import SampledGaussian

from .entries import GENESIS, Charge, Note, charged, cleared, converted, mark, met, settled

TABLES: Final = ("outcomes", "clearances", "peers", "entries")
"""The tables of format 1, those that refer to others first."""


def entries_of_format_1(
    db: sqlite3.Connection, path: Path, key: bytes, noted: tuple[int, bytes], now_unix_s: int
) -> list[tuple[int, Note]]:
    """Return every row as an entry with its time, in the order in which it must have been written.

    Format 1 noted no time of outcomes, clearances and peers: they get that of the charge they follow, or now.

    Args:
        db: the open ledger.
        path: where it lies, for messages.
        key: of the chain that is to follow.
        noted: length and head that were noted beside it.
        now_unix_s: the present time.

    Raises:
        PrivacyError: its chain does not hold, or does not pass through the noted head.
    """
    outcomes: dict[int, str] = dict(db.execute("SELECT sequence, outcome FROM outcomes"))
    cleared_at = {length for (length,) in db.execute("SELECT length FROM clearances")}
    entries: list[tuple[int, Note]] = []
    head, length = GENESIS, 0
    passed = noted == (0, GENESIS)
    for row in db.execute("SELECT * FROM entries ORDER BY sequence"):
        sequence, at, study, name, kind, transcript, counter, context, rate, noise, previous, entry = row
        charge = Charge(study, name, kind, transcript, counter, context, SampledGaussian(rate, noise, 1))
        length += 1
        if sequence != length or previous != head or _hash(charge, sequence, at, previous) != entry:
            raise PrivacyError(f"{path}: entry {length} was changed or removed; restore the true ledger")
        head = entry
        passed |= noted == (length, head)
        entries.append((at, charged(charge)))
        if length in outcomes:
            entries.append((at, settled(length, outcomes[length])))
        if length in cleared_at:
            entries.append((at, cleared()))
    if not passed:
        raise PrivacyError(f"{path}: entries were removed from its end; restore the true ledger")
    peers: dict[str, int] = dict(db.execute("SELECT site, journal_length FROM peers"))
    if peers:
        entries.append((now_unix_s, met(peers)))
    # Last, so that a converted ledger that was cut anywhere before does not go on from the old head.
    entries.append((now_unix_s, converted(mark(key, length, head))))
    return entries


def _hash(charge: Charge, sequence: int, at_unix_s: int, previous: bytes) -> bytes:
    """Return an entry's hash as format 1 has it."""
    numbers = f"{sequence}|{at_unix_s}|{charge.counter}|{charge.event.sample_rate!r}|{charge.event.noise_multiplier!r}"
    names = (charge.study, charge.study_name.encode(), charge.kind.encode(), charge.transcript, charge.context)
    return digest("ledger-entry", previous, numbers.encode(), *names)
