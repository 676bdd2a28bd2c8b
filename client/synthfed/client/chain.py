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
    passed, place, tip = noted == (0, mark(key, 0, GENESIS)), 0, GENESIS
    rows = db.execute("SELECT sequence, at_unix_s, kind, content, tag FROM entries ORDER BY sequence")
    for place, (sequence, at_unix_s, kind, content, tag) in enumerate(rows, 1):
        note = Note(kind, content)
        if sequence != place or seal(key, tip, place, at_unix_s, note) != tag:
            raise PrivacyError(
                f"{path}: entry {place} was changed, added or removed, or identity.key is not the one it was "
                "written under; restore ledger, mark and key as they were"
            )
        yield Entry(place, at_unix_s, note, tag)
        passed, tip = passed or noted == (place, mark(key, place, tag)), tag
    if not passed:
        raise PrivacyError(f"{path}: entries were removed from its end; restore ledger and mark as they were")


def mark_path(ledger: Path) -> Path:
    """Return where the mark of a ledger's chain is noted; the unkeyed head of format 1 lay elsewhere, as ``.head``."""
    return ledger.with_suffix(".mark")


def version_of(db: sqlite3.Connection) -> int:
    """Return the format that a ledger's file says it has."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return int(version)


def way_on(error: sqlite3.Error) -> str:
    """Return what to do about a file of a chain that cannot be used: on a full disk nothing is wrong with it."""
    kind = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the lowest byte; the others say where it happened
    if kind in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return "free disk space, or mend the disk"
    return "restore it, never replace it"
