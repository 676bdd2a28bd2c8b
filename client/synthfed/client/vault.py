"""The site's secrets and its memory: identity key, and the ledger of every charge.

Never changes or deletes an entry, and never lets two agents share a ledger.
"""

import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from synthfed.plugins.files import sync
from synthfed.protocols.errors import ConfigError, PrivacyError
from synthfed.protocols.ids import digest
from synthfed.protocols.privacy.accountant import SampledGaussian

FORMAT: Final = 1
GENESIS: Final = bytes(32)

# An entry is charge and journal at once, so that one commit makes both durable.
_TABLES: Final = """
CREATE TABLE entries (
    sequence INTEGER PRIMARY KEY,
    at_unix_s INTEGER NOT NULL,
    study BLOB NOT NULL,
    study_name TEXT NOT NULL,
    kind TEXT NOT NULL,
    transcript BLOB NOT NULL,
    counter INTEGER NOT NULL,
    context BLOB NOT NULL,
    sample_rate REAL NOT NULL,
    noise_multiplier REAL NOT NULL,
    previous BLOB NOT NULL,
    hash BLOB NOT NULL
) STRICT;
CREATE TABLE outcomes (sequence INTEGER PRIMARY KEY REFERENCES entries, outcome TEXT NOT NULL) STRICT;
CREATE TABLE clearances (length INTEGER NOT NULL) STRICT;
CREATE TABLE peers (site TEXT PRIMARY KEY, journal_length INTEGER NOT NULL) STRICT;
CREATE TRIGGER entries_stay BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER entries_last BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'append only'); END;
"""


@dataclass(frozen=True, slots=True)
class Charge:
    """One step as the ledger knows it.

    Attributes:
        study: hash of the study's terms.
        study_name: for people.
        kind: name of the sum.
        transcript: hash that names the session.
        counter: the step's counter in the session.
        context: hash of everything the step was asked with.
        event: what it costs; its count is 1.
    """

    study: bytes
    study_name: str
    kind: str
    transcript: bytes
    counter: int
    context: bytes
    event: SampledGaussian

    def hash(self, sequence: int, at_unix_s: int, previous: bytes) -> bytes:
        """Return the entry's hash, which chains it to all before it."""
        numbers = f"{sequence}|{at_unix_s}|{self.counter}|{self.event.sample_rate!r}|{self.event.noise_multiplier!r}"
        names = (self.study, self.study_name.encode(), self.kind.encode(), self.transcript, self.context)
        return digest("ledger-entry", previous, numbers.encode(), *names)


class Ledger:
    """Every charge this home's records have paid, hash-chained, in one SQLite file."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Open the file and verify the whole chain against the head noted beside it; create it only on demand.

        Raises:
            PrivacyError: the ledger is missing, changed, shorter than it was, or cannot be used.
        """
        self._path = path
        self._anchor = path.with_suffix(".head")
        is_new = create and not path.exists()
        if not is_new and not path.exists():
            raise PrivacyError(f"{path}: the ledger is missing; restore it, a new one would forget what was spent")
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise PrivacyError(f"{path}: the ledger cannot be opened ({error}); restore it or its folder") from None
        try:
            if not is_new:
                self._check_format()
            self._write_ahead()
            self._db.execute("PRAGMA foreign_keys = ON")
            if is_new:
                path.chmod(0o600)
                self._db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {FORMAT}; COMMIT;")
            self.length, self.head = self._verify(self._noted(is_new))
            if is_new:
                self._note_head()
                sync(self._anchor)
        except sqlite3.Error as error:
            self._db.close()
            raise PrivacyError(f"{path}: the ledger cannot be used ({error}); restore it, never replace it") from None
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def charge(self, charge: Charge) -> int:
        """Append a charge durably and return its sequence number; on any failure nothing may be sampled."""
        sequence, now = self.length + 1, int(time.time())
        entry = charge.hash(sequence, now, self.head)
        row = (
            sequence,
            now,
            charge.study,
            charge.study_name,
            charge.kind,
            charge.transcript,
            charge.counter,
            charge.context,
            charge.event.sample_rate,
            charge.event.noise_multiplier,
            self.head,
            entry,
        )
        with self._transaction():
            self._db.execute(f"INSERT INTO entries VALUES ({','.join('?' * len(row))})", row)  # noqa: S608
        self.length, self.head = sequence, entry
        self._note_head()
        return sequence

    def settle(self, sequence: int, outcome: str) -> None:
        """Note what became of a charged step: ``sent``, ``abandoned``, ``failed`` or ``cleared``; the charge stands."""
        with self._transaction():
            self._db.execute("INSERT INTO outcomes VALUES (?, ?)", (sequence, outcome))

    def unsettled(self) -> tuple[int, ...]:
        """Return the charged steps with no outcome: the agent died inside them."""
        rows = self._db.execute("SELECT sequence FROM entries WHERE sequence NOT IN (SELECT sequence FROM outcomes)")
        return tuple(sequence for (sequence,) in rows)

    def overruns(self) -> int:
        """Return how many steps overran their answer time since a person last cleared the ledger."""
        return self._count_since_clearance("abandoned")

    def failures(self) -> int:
        """Return how many steps failed on records since a person last cleared the ledger."""
        return self._count_since_clearance("failed")

    def _count_since_clearance(self, outcome: str) -> int:
        row = self._db.execute(
            "SELECT COUNT(*) FROM outcomes WHERE outcome = ? "
            "AND sequence > (SELECT coalesce(max(length), 0) FROM clearances)",
            (outcome,),
        ).fetchone()
        return int(row[0])

    def clear(self) -> int:
        """Note that a person has looked: settle interrupted steps, forget the others; return how many there were."""
        interrupted = self.unsettled()
        count = len(interrupted) + self.overruns() + self.failures()
        for sequence in interrupted:
            self.settle(sequence, "cleared")
        with self._transaction():
            self._db.execute("INSERT INTO clearances VALUES (?)", (self.length,))
        return count

    def count(self, study: bytes, kind: str) -> int:
        """Return how many rounds of a kind were charged to a study, over all sessions and restarts."""
        row = self._db.execute("SELECT COUNT(*) FROM entries WHERE study = ? AND kind = ?", (study, kind)).fetchone()
        return int(row[0])

    def events(self) -> list[SampledGaussian]:
        """Return every charge of every study, equal ones counted together."""
        rows = self._db.execute(
            "SELECT sample_rate, noise_multiplier, COUNT(*) FROM entries GROUP BY sample_rate, noise_multiplier"
        )
        return [SampledGaussian(rate, noise, count) for rate, noise, count in rows]

    def journal_floors(self) -> dict[str, int]:
        """Return the longest journal ever seen from each peer, by its identity key in hexadecimal."""
        return dict(self._db.execute("SELECT site, journal_length FROM peers"))

    def remember_peers(self, lengths: dict[str, int]) -> None:
        """Remember peers' journal lengths, so that a rolled-back journal is refused later."""
        with self._transaction():
            self._db.executemany(
                "INSERT INTO peers VALUES (?, ?) ON CONFLICT (site) DO UPDATE "
                "SET journal_length = max(journal_length, excluded.journal_length)",
                sorted(lengths.items()),
            )

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

    def _write_ahead(self) -> None:
        """Make each commit durable with one sync: the coordinator waits for every charge (docs/adr/0008)."""
        (mode,) = self._db.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise PrivacyError(
                f"{self._path}: this file system allows no write-ahead log; move the home to a local disk"
            )
        self._db.execute("PRAGMA synchronous = FULL")

    def _check_format(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version != FORMAT:
            raise PrivacyError(f"{self._path}: ledger format {version} is not supported; this program writes {FORMAT}")

    def _note_head(self) -> None:
        """Note length and head in a file of their own, so that a cut ledger is noticed.

        Not synced: after a power cut an older head may stand here, and the chain passes through that one, too.
        """
        try:
            descriptor = os.open(self._anchor, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.pwrite(descriptor, self.length.to_bytes(8, "little") + self.head, 0)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise PrivacyError(f"{self._anchor}: cannot be written ({error.strerror}); free disk space") from None

    def _noted(self, is_new: bool) -> tuple[int, bytes]:
        if is_new:
            return 0, GENESIS
        try:
            noted = self._anchor.read_bytes()
        except OSError:
            noted = b""
        if len(noted) != 8 + len(GENESIS):
            raise PrivacyError(f"{self._anchor}: is missing or damaged; restore it together with the ledger")
        return int.from_bytes(noted[:8], "little"), noted[8:]

    def _verify(self, noted: tuple[int, bytes]) -> tuple[int, bytes]:
        """Return length and head; the chain must pass through the noted head, and may be longer."""
        head, expected = GENESIS, 0
        passed = noted == (0, GENESIS)
        for row in self._db.execute("SELECT * FROM entries ORDER BY sequence"):
            sequence, at, study, name, kind, transcript, counter, context, rate, noise, previous, entry = row
            charge = Charge(study, name, kind, transcript, counter, context, SampledGaussian(rate, noise, 1))
            expected += 1
            if sequence != expected or previous != head or charge.hash(sequence, at, previous) != entry:
                raise PrivacyError(f"{self._path}: entry {expected} was changed or removed; restore the true ledger")
            head = entry
            passed |= noted == (expected, head)
        if not passed:
            raise PrivacyError(f"{self._path}: entries were removed from its end; restore the true ledger")
        return expected, head


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


def load_identity(path: Path) -> Ed25519PrivateKey:
    """Return the site's identity key.

    Raises:
        ConfigError: it is missing, readable by others, or not such a key.
    """
    try:
        wider = stat.S_IMODE(path.stat().st_mode) & 0o077
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from None
    if wider:
        raise ConfigError("can be read by others; run `chmod 600` on it", where=str(path))
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError("is not an Ed25519 private key; restore it from your backup", where=str(path))
    return key


def identity_pem(key: Ed25519PrivateKey) -> bytes:
    """Return a private key in PEM, PKCS #8, unencrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
