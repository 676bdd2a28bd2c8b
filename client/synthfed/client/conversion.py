"""Takes a ledger of format 1 over into format 2, once, when a person has looked at what it holds.

Never takes over a ledger whose chain does not hold, and never decides by itself: nothing but a person can tell a
true ledger of format 1 from one that was made up, as its hashes have no key.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from synthfed.plugins.files import sync
from synthfed.protocols.errors import PrivacyError
from synthfed.protocols.ids import digest
from synthfed.protocols.privacy.accountant import SampledGaussian

from .anchor import read_anchor, write_anchor
from .chain import mark_path, version_of
from .entries import GENESIS, Book, Charge, Note, chain_key, charged, cleared, converted, mark, met, settled
from .ledger_file import fill, write_ahead

_TABLES: Final = ("outcomes", "clearances", "peers", "entries")  # those that refer to others first


@dataclass(frozen=True, slots=True)
class Found:
    """What a ledger of format 1 holds.

    Attributes:
        entries: every row as an entry with its time, in the order in which it must have been written.
        book: what they add up to.
    """

    entries: tuple[tuple[int, Note], ...]
    book: Book


def read_format_1(path: Path, now_unix_s: int) -> Found:
    """Verify a ledger of format 1 against the head noted beside it and return what it holds; nothing is written.

    Args:
        path: where it lies.
        now_unix_s: the present time, for what format 1 noted without one.

    Raises:
        PrivacyError: it is missing, of another format, does not hold, or cannot be read.
    """
    with _opened(path) as db:
        return _found(db, path, now_unix_s)


def convert(path: Path, identity: Ed25519PrivateKey, shown: Found, now_unix_s: int) -> None:
    """Rewrite a ledger of format 1 as one of format 2, in one transaction; the caller holds the home's lock.

    The mark of the new chain is on disk before the commit, under a name of its own: a conversion that ends before
    the commit leaves the old ledger with the old head, and one that ends after it the new ledger with its mark. The
    old head is then removed; format 2 never reads it.

    Args:
        path: where it lies.
        identity: the site's, from which the new chain's key is derived.
        shown: what a person has agreed to take over.
        now_unix_s: the time at which that was read.

    Raises:
        PrivacyError: it holds something else by now, or cannot be written; it stands as it was.
    """
    key = chain_key(identity)
    with _opened(path) as db:
        write_ahead(db, path)
        db.execute("BEGIN IMMEDIATE")  # closing the file without a commit rolls back
        if _found(db, path, now_unix_s) != shown:
            raise PrivacyError(f"{path}: the ledger has changed since it was shown; look who writes it, and start anew")
        for table in _TABLES:
            db.execute(f"DROP TABLE {table}")
        length, tip = fill(db, key, [*shown.entries, (now_unix_s, converted(shown.book.length))])
        write_anchor(mark_path(path), length, mark(key, length, tip))
        sync(mark_path(path))
        sync(path.parent)
        db.execute("COMMIT")
    with suppress(OSError):  # nothing reads it any more
        _head_path(path).unlink()


def _head_path(path: Path) -> Path:
    return path.with_suffix(".head")


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    if not path.exists():
        raise PrivacyError(f"{path}: the ledger is missing; restore it, a new one would forget what was spent")
    db = None
    try:
        db = sqlite3.connect(path, isolation_level=None)
        yield db
    except sqlite3.Error as error:
        raise PrivacyError(f"{path}: the ledger cannot be used ({error}); restore it, never replace it") from None
    except OSError as error:
        raise PrivacyError(f"{path}: cannot be converted ({error.strerror}); free disk space") from None
    finally:
        if db is not None:
            db.close()


def _found(db: sqlite3.Connection, path: Path, now_unix_s: int) -> Found:
    """Return what the open ledger holds.

    Format 1 noted no time of outcomes, clearances and peers: they get that of the charge they follow, or now.
    """
    version = version_of(db)
    if version != 1:
        raise PrivacyError(f"{path}: the ledger is of format {version} and not of 1; there is nothing to convert")
    noted = read_anchor(_head_path(path))
    outcomes: dict[int, str] = dict(db.execute("SELECT sequence, outcome FROM outcomes"))
    cleared_at = {length for (length,) in db.execute("SELECT length FROM clearances")}
    entries: list[tuple[int, Note]] = []
    head = GENESIS
    passed = noted == (0, GENESIS)
    for length, row in enumerate(db.execute("SELECT * FROM entries ORDER BY sequence"), 1):
        sequence, at, study, name, kind, transcript, counter, context, rate, noise, previous, entry = row
        charge = Charge(study, name, kind, transcript, counter, context, SampledGaussian(rate, noise, 1))
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
    book = Book()
    for at_unix_s, note in entries:
        book.add(note, GENESIS, at_unix_s)
    return Found(tuple(entries), book)


def _hash(charge: Charge, sequence: int, at_unix_s: int, previous: bytes) -> bytes:
    """Return an entry's hash as format 1 has it."""
    numbers = f"{sequence}|{at_unix_s}|{charge.counter}|{charge.event.sample_rate!r}|{charge.event.noise_multiplier!r}"
    names = (charge.study, charge.study_name.encode(), charge.kind.encode(), charge.transcript, charge.context)
    return digest("ledger-entry", previous, numbers.encode(), *names)
