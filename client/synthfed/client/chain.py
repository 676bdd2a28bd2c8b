"""The entries of a ledger's file, each verified against the chain's key and all of them against the noted mark.

Never writes, and never passes on an entry whose tag does not hold.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from synthfed.protocols.errors import PrivacyError

from .entries import GENESIS, Note, mark, seal


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry in its place.

    Attributes:
        sequence: its place, from 1.
        at_unix_s: when it was written, by the clock of that moment.
        note: what it says.
        tag: 32 bytes, over all of that and the entries before.
    """

    sequence: int
    at_unix_s: int
    note: Note
    tag: bytes


def read_chain(db: sqlite3.Connection, key: bytes, noted: tuple[int, bytes], path: Path) -> Iterator[Entry]:
    """Yield every entry; the chain must pass through what was noted, and may be longer.

    Args:
        db: the open file.
        key: of the chain.
        noted: the length and the mark that were read before the file was: an agent may be adding entries.
        path: the file, for an error.

    Raises:
        PrivacyError: naming the entry that does not hold, or saying that the end is missing.
    """
    passed = noted == (0, mark(key, 0, GENESIS))
    for entry in read_after(db, key, (0, GENESIS), path):
        yield entry
        passed = passed or noted == (entry.sequence, mark(key, entry.sequence, entry.tag))
    if not passed:
        raise PrivacyError(f"{path}: entries were removed from its end; restore ledger and mark as they were")


def read_after(db: sqlite3.Connection, key: bytes, known: tuple[int, bytes], path: Path) -> Iterator[Entry]:
    """Yield every entry after a known one, of which place and tag are given.

    Raises:
        PrivacyError: naming the entry that does not hold.
    """
    first, tip = known
    rows = db.execute(
        "SELECT sequence, at_unix_s, kind, content, tag FROM entries WHERE sequence > ? ORDER BY sequence", (first,)
    )
    for place, (sequence, at_unix_s, kind, content, tag) in enumerate(rows, first + 1):
        note = Note(kind, content)
        if sequence != place or seal(key, tip, place, at_unix_s, note) != tag:
            raise PrivacyError(
                f"{path}: entry {place} was changed, added or removed, or identity.key is not the one it was "
                "written under; restore ledger, mark and key as they were"
            )
        yield Entry(place, at_unix_s, note, tag)
        tip = tag


def mark_path(ledger: Path) -> Path:
    """Return where the mark of a ledger's chain is noted; the unkeyed head of format 1 lay elsewhere, as ``.head``."""
    return ledger.with_suffix(".mark")


def version_of(db: sqlite3.Connection) -> int:
    """Return the format that a ledger's file says it has."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return int(version)
