"""The entries of a ledger's file, each verified against the chain's key and all of them against the noted mark.

Never writes, and never passes on an entry whose tag does not hold.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from synthfed.protocols.errors import PrivacyError
from synthfed.protocols.rotation import Rotation

from .entries import GENESIS, Note, mark, seal
from .keys.succession import BrokenLink, Keys, sealed_under

ROTATION: Final = "rotation"
"""The kind of the first entry under another key; a version that does not know it refuses the ledger."""


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
        key: of the chain's end.
        noted: the length and the mark that were read before the file was: an agent may be adding entries.
        path: the file, for an error.

    Raises:
        PrivacyError: naming the entry that does not hold, or saying that the end is missing.
    """
    keys = _keys(db, key, path)
    passed = keys.newest_from == 1 and noted == (0, mark(key, 0, GENESIS))
    for entry in read_after(db, keys.at, (0, GENESIS), path):
        yield entry
        # Not under an earlier key, of which somebody may have a copy: everything after its end could be cut off.
        is_new = entry.sequence >= keys.newest_from
        passed = passed or (is_new and noted == (entry.sequence, mark(key, entry.sequence, entry.tag)))
    if not passed:
        raise PrivacyError(f"{path}: entries were removed from its end; restore ledger and mark as they were")


def read_after(
    db: sqlite3.Connection, key_at: Callable[[int], bytes], known: tuple[int, bytes], path: Path
) -> Iterator[Entry]:
    """Yield every entry after a known one, of which place and tag are given.

    Args:
        db: the open file.
        key_at: the key of the entry at a place.
        known: place and tag.
        path: the file, for an error.

    Raises:
        PrivacyError: naming the entry that does not hold.
    """
    first, tip = known
    rows = db.execute(
        "SELECT sequence, at_unix_s, kind, content, tag FROM entries WHERE sequence > ? ORDER BY sequence", (first,)
    )
    for place, (sequence, at_unix_s, kind, content, tag) in enumerate(rows, first + 1):
        note = Note(kind, content)
        if sequence != place or seal(key_at(place), tip, place, at_unix_s, note) != tag:
            raise PrivacyError(
                f"{path}: entry {place} was changed, added or removed, or identity.key is not the one it was "
                "written under; restore ledger, mark and key as they were"
            )
        yield Entry(place, at_unix_s, note, tag)
        tip = tag


def rotation_note(statement: Rotation, newer: bytes, older: bytes) -> Note:
    """Return the entry with which a chain goes on under a newer key, as the statement of both identities has it."""
    content = {"statement": statement.model_dump(mode="json"), "earlier": sealed_under(newer, older)}
    return Note(ROTATION, json.dumps(content, sort_keys=True, separators=(",", ":")))


def last_rotation(db: sqlite3.Connection) -> str:
    """Return the sealed key of the last entry if that is a rotation, else nothing; it is not verified."""
    row = db.execute("SELECT kind, content FROM entries ORDER BY sequence DESC LIMIT 1").fetchone()
    return _sealed(row[1]) if row is not None and row[0] == ROTATION else ""


def _keys(db: sqlite3.Connection, newest: bytes, path: Path) -> Keys:
    """Return the keys of all places; PrivacyError where the entry of a rotation is not as it was written."""
    found = db.execute("SELECT sequence, content FROM entries WHERE kind = ? ORDER BY sequence DESC", (ROTATION,))
    try:
        return Keys.leading_to(newest, ((place, _sealed(content)) for place, content in found))
    except BrokenLink as error:
        raise PrivacyError(
            f"{path}: entry {error.place} was changed or added, or identity.key is not the one it was written under; "
            "restore ledger, mark and key as they were"
        ) from None


def _sealed(content: object) -> str:
    try:
        return str(json.loads(str(content))["earlier"])
    except (ValueError, KeyError, TypeError):
        return ""  # which opens under no key


def mark_path(ledger: Path) -> Path:
    """Return where the mark of a ledger's chain is noted; the unkeyed head of format 1 lay elsewhere, as ``.head``."""
    return ledger.with_suffix(".mark")


def version_of(db: sqlite3.Connection) -> int:
    """Return the format that a ledger's file says it has."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return int(version)


def way_on(error: sqlite3.Error) -> str:
    """Return what to do about a file of a chain that cannot be used.

    On a full disk, or while another process writes, nothing is wrong with it.
    """
    kind = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the lowest byte; the others say where it happened
    if kind in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return "free disk space, or mend the disk"
    if kind == sqlite3.SQLITE_BUSY:
        return "another process holds it: wait until it has ended, or stop it"
    return "restore it, never replace it"
