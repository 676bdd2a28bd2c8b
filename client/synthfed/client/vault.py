"""The site's secrets and its memory: identity key, and the ledger of every charge.

Never changes or deletes an entry, and never lets two agents share a ledger.
"""

import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from synthfed.plugins.files import sync
from synthfed.protocols.approval import NEVER
from synthfed.protocols.errors import ConfigError, PrivacyError
from synthfed.protocols.privacy.accountant import SampledGaussian

from .anchor import read_anchor, write_anchor
from .chain import Entry, mark_path, read_chain, version_of, way_on
from .entries import GENESIS, Book, Charge, Note, Price, blocked, chain_key, charged, cleared, mark, met, seal, settled

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


class Ledger:
    """Every charge this home's records have paid, and what became of it, chained under a key, in one SQLite file."""

    def __init__(
        self,
        path: Path,
        identity: Ed25519PrivateKey,
        *,
        create: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Open the file and verify the whole chain against the head noted beside it; create it only on demand.

        A ledger of format 1 is refused: its hashes have no key, so anybody could have made it up.

        Args:
            path: where it lies.
            identity: the site's, from which the chain's key is derived.
            create: make a new ledger where there is none.
            now: the time in seconds since 1970, of new entries and of what is older than a year.

        Raises:
            PrivacyError: the ledger is missing, changed, shorter than it was, or cannot be used.
        """
        self._path = path
        self._key = chain_key(identity)
        self._now = now
        self._anchor = mark_path(path)
        self._book, self._position, self._tip = Book(), 0, GENESIS
        is_new = create and not path.exists()
        if not is_new and not path.exists():
            raise PrivacyError(f"{path}: the ledger is missing; restore it, a new one would forget what was spent")
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise PrivacyError(f"{path}: the ledger cannot be opened ({error}); restore it or its folder") from None
        try:
            self._open(is_new)
        except sqlite3.Error as error:
            self._db.close()
            raise PrivacyError(f"{path}: the ledger cannot be used ({error}); {way_on(error)}") from None
        except BaseException:
            self._db.close()
            raise

    @property
    def book(self) -> Book:
        """What all entries add up to, to look things up in."""
        return self._book

    @property
    def length(self) -> int:
        """How many charges there are."""
        return self._book.length

    @property
    def head(self) -> bytes:
        """The tag of the last charge, 32 bytes; it tells nobody without the key what became of any step."""
        return self._book.head

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def charge(self, charge: Charge) -> int:
        """Append a charge durably and return its number, from 1; on any failure nothing may be sampled."""
        self._append([charged(charge)])
        return self.length

    def settle(self, number: int, outcome: str) -> None:
        """Note what became of a charged step: ``sent``, ``abandoned``, ``failed`` or ``cleared``; the charge stands."""
        if number not in self._book.unsettled:
            raise PrivacyError(f"{self._path}: charge {number} was never made or has an outcome; stop the agent")
        self._append([settled(number, outcome)])

    def unsettled(self) -> tuple[int, ...]:
        """Return the numbers of the charged steps with no outcome: the agent died inside them."""
        return tuple(sorted(self._book.unsettled))

    def overruns(self) -> int:
        """Return how many steps overran their answer time since a person last cleared the ledger."""
        return self._book.overruns

    def failures(self) -> int:
        """Return how many steps failed on records since a person last cleared the ledger."""
        return self._book.failures

    def clear(self) -> int:
        """Note that a person has looked: settle interrupted steps, forget the others; return how many there were."""
        interrupted = self.unsettled()
        count = len(interrupted) + self.overruns() + self.failures()
        self._append([*(settled(number, "cleared") for number in interrupted), cleared()])
        return count

    def count(self, study: bytes, kind: str) -> int:
        """Return how many rounds of a kind were charged to a study, over all sessions and restarts."""
        return self._book.rounds[study, kind]

    def prices(self, study: bytes) -> frozenset[Price]:
        """Return what was charged to a study: each sum's name, with sample rate, noise and steps of its rounds."""
        return frozenset(self._book.prices.get(study, ()))

    def events(self) -> list[SampledGaussian]:
        """Return every charge of every study, equal ones counted together."""
        return self._book.events()

    def now_unix_s(self) -> int:
        """Return the time on the ledger's clock, in whole seconds since 1970."""
        return int(self._now())

    def journal_floors(self) -> dict[str, int]:
        """Return the longest journal ever seen from each peer, by its identity key in hexadecimal."""
        return dict(self._book.floors)

    def remember_peers(self, lengths: dict[str, int]) -> None:
        """Remember peers' journal lengths, so that a rolled-back journal is refused later."""
        grown = {peer: length for peer, length in lengths.items() if length > self._book.floors.get(peer, 0)}
        if grown:
            self._append([met(grown)])

    def blocked_unix_s(self, study: bytes) -> int:
        """Return the time of the last rejection or withdrawal of a study that was seen here, `NEVER` without one."""
        return self._book.blocks.get(study, NEVER)

    def remember_block(self, study: bytes, at_unix_s: int) -> None:
        """Remember that a study was rejected or withdrawn, so that the decision stands when its file is gone."""
        if at_unix_s > self.blocked_unix_s(study):
            self._append([blocked(study, at_unix_s)])

    def _open(self, is_new: bool) -> None:
        if not is_new:
            self._check_version()
        write_ahead(self._db, self._path)
        # Before the entries are read: an agent may be adding some.
        noted = (0, mark(self._key, 0, GENESIS)) if is_new else read_anchor(self._anchor)
        if is_new:
            self._path.chmod(0o600)
            self._db.execute("BEGIN")
            fill(self._db, self._key, [])
            self._db.execute("COMMIT")
        self._verify(noted)
        if is_new:
            self._note_head()
            sync(self._anchor)

    def _check_version(self) -> None:
        version = version_of(self._db)
        if version == 1:  # the file itself says so, and whoever can write it can make one up: a person must decide
            raise PrivacyError(
                f"{self._path}: the ledger is of format 1; directly after the upgrade from a version that wrote it, "
                "and only then, run `synthfed client convert`; at any other time it was replaced: restore the true one"
            )
        if version != FORMAT:
            raise PrivacyError(f"{self._path}: ledger format {version} is not supported; this program writes {FORMAT}")

    def _append(self, notes: Iterable[Note]) -> None:
        """Write entries in one transaction; if that fails, neither the file nor the book has moved."""
        now, tip, written = self.now_unix_s(), self._tip, list[Entry]()
        with self._transaction():
            for sequence, note in enumerate(notes, self._position + 1):
                tip = _insert(self._db, self._key, tip, sequence, now, note)
                written.append(Entry(sequence, now, note, tip))
        for entry in written:
            self._take(entry)
        self._note_head()

    def _take(self, entry: Entry) -> None:
        """Take an entry that stands in the file into the book."""
        self._position, self._tip = entry.sequence, entry.tag
        self._book.add(entry.note, entry.tag, entry.at_unix_s)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if not isinstance(error, sqlite3.Error):
                raise
            raise PrivacyError(f"{self._path}: the ledger cannot be written ({error}); free disk space") from None

    def _note_head(self) -> None:
        write_anchor(self._anchor, self._position, mark(self._key, self._position, self._tip))

    def _verify(self, noted: tuple[int, bytes]) -> None:
        """Read every entry into the book, each verified."""
        for entry in read_chain(self._db, self._key, noted, self._path):
            try:
                self._take(entry)
            except ValueError:
                raise PrivacyError(
                    f"{self._path}: entry {entry.sequence} is of a kind that this version does not know; install a "
                    "newer one"
                ) from None


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
        tip = _insert(db, key, tip, length, at_unix_s, note)
    return length, tip


def _insert(db: sqlite3.Connection, key: bytes, previous: bytes, sequence: int, at_unix_s: int, note: Note) -> bytes:
    tag = seal(key, previous, sequence, at_unix_s, note)
    db.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", (sequence, at_unix_s, note.kind, note.content, tag))
    return tag


def write_secret(path: Path, content: bytes) -> None:
    """Write a new file that only its owner can read (mode 0600); never overwrites."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigError("already exists and is never overwritten", where=str(path)) from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def load_secret(path: Path) -> bytes:
    """Return the content of a file that only its owner can read; ConfigError where it is missing or others can."""
    try:
        wider = stat.S_IMODE(path.stat().st_mode) & 0o077
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from None
    if wider:
        raise ConfigError("can be read by others; run `chmod 600` on it", where=str(path))
    return content


def load_identity(path: Path) -> Ed25519PrivateKey:
    """Return the site's identity key.

    Raises:
        ConfigError: it is missing, readable by others, or not such a key.
    """
    content = load_secret(path)
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (TypeError, ValueError):  # the former where it asks for a passphrase
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError("is not an Ed25519 private key; restore it from your backup", where=str(path))
    return key


def identity_pem(key: Ed25519PrivateKey) -> bytes:
    """Return a private key in PEM, PKCS #8, unencrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
