"""Writes ledgers of format 1 as its programs did: four tables, of which only the charges are chained."""

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from synthfed.client.entries import GENESIS, Charge
from synthfed.protocols.ids import digest

TABLES = """
CREATE TABLE entries (
    sequence INTEGER PRIMARY KEY, at_unix_s INTEGER NOT NULL, study BLOB NOT NULL, study_name TEXT NOT NULL,
    kind TEXT NOT NULL, transcript BLOB NOT NULL, counter INTEGER NOT NULL, context BLOB NOT NULL,
    sample_rate REAL NOT NULL, noise_multiplier REAL NOT NULL, previous BLOB NOT NULL, hash BLOB NOT NULL
) STRICT;
CREATE TABLE outcomes (sequence INTEGER PRIMARY KEY REFERENCES entries, outcome TEXT NOT NULL) STRICT;
CREATE TABLE clearances (length INTEGER NOT NULL) STRICT;
CREATE TABLE peers (site TEXT PRIMARY KEY, journal_length INTEGER NOT NULL) STRICT;
CREATE TRIGGER entries_stay BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER entries_last BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'append only'); END;
PRAGMA journal_mode = WAL;
PRAGMA user_version = 1;
"""
NOON_UNIX_S = 1_700_000_000


@dataclass(frozen=True)
class Written:
    """A ledger of format 1 as it lies on disk."""

    path: Path
    head: bytes


def write(
    path: Path,
    charges: Iterable[Charge],
    outcomes: Mapping[int, str],
    clearances: Iterable[int] = (),
    peers: Mapping[str, int] | None = None,
) -> Written:
    """Write a ledger whose charges were made one second apart, and the head beside it."""
    head, length = GENESIS, 0
    with closing(sqlite3.connect(path)) as db:
        db.executescript(TABLES)
        for length, charge in enumerate(charges, 1):
            at, event = NOON_UNIX_S + length, charge.event
            numbers = f"{length}|{at}|{charge.counter}|{event.sample_rate!r}|{event.noise_multiplier!r}".encode()
            names = (charge.study, charge.study_name.encode(), charge.kind.encode(), charge.transcript, charge.context)
            following = digest("ledger-entry", head, numbers, *names)
            step = (charge.study, charge.study_name, charge.kind, charge.transcript, charge.counter, charge.context)
            row = (length, at, *step, event.sample_rate, event.noise_multiplier, head, following)
            db.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            head = following
        db.executemany("INSERT INTO outcomes VALUES (?, ?)", outcomes.items())
        db.executemany("INSERT INTO clearances VALUES (?)", [(each,) for each in clearances])
        db.executemany("INSERT INTO peers VALUES (?, ?)", (peers or {}).items())
        db.commit()
    path.with_suffix(".head").write_bytes(length.to_bytes(8, "little") + head)
    for each in (path, path.with_suffix(".head")):
        each.chmod(0o600)  # as that version made them
    return Written(path, head)
