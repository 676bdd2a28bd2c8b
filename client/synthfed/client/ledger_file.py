"""The SQLite file of a ledger: its one table, to which entries are only added.

Never changes or deletes an entry, and decides nothing: what is written, and on what grounds, is its callers' affair.
"""

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from synthfed.protocols.errors import PrivacyError

from .entries import GENESIS, Note, seal

FORMAT: Final = 2

# One table, so that one commit makes charge and journal durable, and one chain holds everything.
_SCHEMA: Final = (
    """CREATE TABLE entries (
    sequence INTEGER PRIMARY KEY,
    at_unix_s INTEGER NOT NULL,
    kind TEXT NOT NULL,
    content TEXT NOT NULL,
    tag BLOB NOT NULL
) STRICT""",
    "CREATE TRIGGER entries_stay BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'append only'); END",
    "CREATE TRIGGER entries_last BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'append only'); END",
    f"PRAGMA user_version = {FORMAT}",
)


def write_ahead(db: sqlite3.Connection, path: Path) -> None:
    """Make each commit durable with one sync: the coordinator waits for every charge (docs/adr/0008)."""
    (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise PrivacyError(f"{path}: this file system allows no write-ahead log; move the home to a local disk")
    db.execute("PRAGMA synchronous = FULL")


def fill(db: sqlite3.Connection, key: bytes, entries: Iterable[tuple[int, Note]]) -> tuple[int, bytes]:
    """Make the table, in the caller's transaction, and fill it with entries and their times.

    Returns:
        the chain's length and its last tag.
    """
    for statement in _SCHEMA:
        db.execute(statement)
    length, tip = 0, GENESIS
    for length, (at_unix_s, note) in enumerate(entries, 1):
        tip = insert(db, key, tip, length, at_unix_s, note)
    return length, tip


def insert(db: sqlite3.Connection, key: bytes, previous: bytes, sequence: int, at_unix_s: int, note: Note) -> bytes:
    """Add one entry, in the caller's transaction, and return its tag."""
    tag = seal(key, previous, sequence, at_unix_s, note)
    db.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", (sequence, at_unix_s, note.kind, note.content, tag))
    return tag
