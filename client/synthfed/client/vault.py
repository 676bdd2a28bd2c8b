"""The site's memory: the ledger of every charge.

Never changes or deletes an entry, and never appends one that was decided on less than all entries before it.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from synthfed.plugins.files import sync
from synthfed.protocols.approval import NEVER
from synthfed.protocols.errors import PrivacyError
from synthfed.protocols.privacy.accountant import SampledGaussian
from synthfed.protocols.rotation import Rotation

from .anchor import read_anchor, stage_anchor, take_staged, write_anchor
from .chain import Entry, mark_path, read_after, read_chain, rotation_note, version_of, way_on
from .entries import (
    GENESIS,
    Book,
    Charge,
    Note,
    Price,
    blocked,
    chain_key,
    charged,
    cleared,
    loaded,
    mark,
    met,
    released,
    reserved,
    settled,
)
from .ledger_file import FORMAT, fill, insert, write_ahead
from .reservation import Reservation

_WAIT_S: Final = 60.0  # for another process, which may be computing what one more step comes to


class Ledger:
    """Every charge this home's records have paid, and what became of it, chained under a key, in one SQLite file.

    Several processes may have it open: each takes the others' entries into its book before it decides and appends,
    all in one transaction.
    """

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
        self._others = set[int]()  # charges that others made meanwhile: whether they are interrupted is not seen here
        self._their_sessions = set[str]()  # transcripts of the sessions that others have charged meanwhile
        is_new = create and not path.exists()
        if not is_new and not path.exists():
            raise PrivacyError(f"{path}: the ledger is missing; restore it, a new one would forget what was spent")
        try:
            self._db = sqlite3.connect(path, _WAIT_S, isolation_level=None, check_same_thread=False)
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

    def charge(self, charge: Charge, check: Callable[[], object] = bool) -> int:
        """Append a charge durably and return its number, from 1; on any failure nothing may be sampled.

        A session is of one process: two with its keys, as after a fork, could mask two sums with one mask.

        Args:
            charge: the step.
            check: raises where the step may not be paid for; called when the book is that of the whole file, and
                nobody else can append before this charge stands.
        """

        def decided() -> list[Note]:
            if charge.transcript.hex() in self._their_sessions:
                raise PrivacyError(
                    f"{self._path}: another process has charged a step of this very session: a copy of this agent "
                    "runs; stop both"
                )
            check()
            return [charged(charge)]

        self._append(decided)
        return self.length

    def settle(self, number: int, outcome: str) -> None:
        """Note what became of a charged step: ``sent``, ``abandoned``, ``failed`` or ``cleared``; the charge stands."""
        if number not in self._book.unsettled:
            raise PrivacyError(f"{self._path}: charge {number} was never made or has an outcome; stop the agent")
        self._append(lambda: [settled(number, outcome)])

    def unsettled(self) -> tuple[int, ...]:
        """Return the numbers of the charged steps with no outcome: the agent died inside them.

        Those that another process has charged since this ledger was opened are its own to tell of.
        """
        return tuple(sorted(self._book.unsettled - self._others))

    def refresh(self) -> None:
        """Take what other processes have appended into the book."""
        try:
            self._catch_up()
        except sqlite3.Error as error:
            raise PrivacyError(f"{self._path}: the ledger cannot be read ({error}); restore it") from None

    def reserve(self, reservation: Reservation, check: Callable[[], object]) -> None:
        """Keep what a study may spend, in place of what was kept for it before; nothing where just that is kept.

        Args:
            reservation: all that its plan may ever ask for.
            check: raises where that does not fit; called as that of `charge`.
        """

        def decided() -> list[Note]:
            if self._book.reserved.get(reservation.study) == reservation:
                return []
            check()
            return [reserved(reservation)]

        self._append(decided)

    def release(self, study: bytes, at_unix_s: int) -> None:
        """Give back what a study has not used; approvals up to this time no longer count."""
        self._append(lambda: [released(study, at_unix_s)])

    def note_dataset(self, ledger: str, fingerprint: str) -> None:
        """Note from which data set the records are, where that is not the one noted last."""
        if (ledger, fingerprint) != (self._book.ledger, self._book.dataset):
            self._append(lambda: [loaded(ledger, fingerprint)])

    def overruns(self) -> int:
        """Return how many steps overran their answer time since a person last cleared the ledger."""
        return self._book.overruns

    def failures(self) -> int:
        """Return how many steps failed on records since a person last cleared the ledger."""
        return self._book.failures

    def clear(self) -> int:
        """Note that a person has looked: settle interrupted steps, forget the others; return how many there were."""
        counts = list[int]()

        def decided() -> list[Note]:
            interrupted = self.unsettled()
            counts.append(len(interrupted) + self.overruns() + self.failures())
            return [*(settled(number, "cleared") for number in interrupted), cleared()]

        self._append(decided)
        return counts[0]

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
            self._append(lambda: [met(grown)])

    def blocked_unix_s(self, study: bytes) -> int:
        """Return when a study was last rejected, withdrawn or released as far as was seen here, `NEVER` if never."""
        return self._book.blocks.get(study, NEVER)

    def remember_block(self, study: bytes, at_unix_s: int) -> None:
        """Remember that a study was rejected or withdrawn, so that the decision stands when its file is gone."""
        if at_unix_s > self.blocked_unix_s(study):
            self._append(lambda: [blocked(study, at_unix_s)])

    def hand_over(self, identity: Ed25519PrivateKey, statement: Rotation) -> None:
        """Go on under another identity's key, with the entry that says so; nothing charged changes.

        The mark under the new key is on disk before the commit, under a name of its own: whoever finishes an
        interrupted rotation finds the old ledger and the old mark, or the new ledger and its mark.
        """
        key = chain_key(identity)
        note, now = rotation_note(statement, key, self._key), self.now_unix_s()
        with self._transaction():
            self._catch_up()
            place = self._position + 1
            tip = insert(self._db, key, self._tip, place, now, note)
            stage_anchor(self._anchor, place, mark(key, place, tip))
        take_staged(self._anchor)
        self._key = key
        self._take(Entry(place, now, note, tip))

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

    def _append(self, decide: Callable[[], Iterable[Note]]) -> None:
        """Write entries in one transaction; if that fails, neither the file nor the book has moved by them.

        Args:
            decide: returns them; called when the book is that of the whole file, and nobody else can write.
        """
        written = list[Entry]()
        with self._transaction():
            self._catch_up()
            now, tip = self.now_unix_s(), self._tip
            for sequence, note in enumerate(decide(), self._position + 1):
                tip = insert(self._db, self._key, tip, sequence, now, note)
                written.append(Entry(sequence, now, note, tip))
        for entry in written:
            self._take(entry)
        if written:
            self._note_head()

    def _catch_up(self) -> None:
        """Take entries of other processes into the book, each verified to follow on the last that is known."""
        # All under one key: no rotation goes on while somebody has this home, and after one nothing would hold.
        for entry in read_after(self._db, lambda _: self._key, (self._position, self._tip), self._path):
            before = self.length
            self._take_known(entry)
            if self.length > before:
                self._others.add(self.length)
                self._their_sessions.add(json.loads(entry.note.content)["transcript"])

    def _take_known(self, entry: Entry) -> None:
        """Take an entry into the book unless this version does not know its kind."""
        try:
            self._take(entry)
        except ValueError:
            raise PrivacyError(
                f"{self._path}: entry {entry.sequence} is of a kind that this version does not know; install a newer "
                "one"
            ) from None

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
            is_held = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
            advice = way_on(error) if is_held else "free disk space"
            raise PrivacyError(f"{self._path}: the ledger cannot be written ({error}); {advice}") from None

    def _note_head(self) -> None:
        """Note the end of the chain, unless another process has moved it meanwhile: the later mark is its to write.

        An earlier one in its place would let the end be cut, and one under a key that was rotated away since would let
        nobody open the ledger again.
        """
        with self._transaction():
            (last,) = self._db.execute("SELECT max(sequence) FROM entries").fetchone()
            if (last or 0) == self._position:
                write_anchor(self._anchor, self._position, mark(self._key, self._position, self._tip))

    def _verify(self, noted: tuple[int, bytes]) -> None:
        """Read every entry into the book, each verified."""
        for entry in read_chain(self._db, self._key, noted, self._path):
            self._take_known(entry)
