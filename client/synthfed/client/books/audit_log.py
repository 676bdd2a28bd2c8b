"""The log of a site's decisions in a file: one line each, on disk before the decision takes effect.

Never changes or removes a line, and never holds a value of a record: names, hashes and counts only.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from synthfed.plugins.files import sync
from synthfed.protocols.errors import PrivacyError

from ..anchor import read_anchor, stage_anchor, take_staged, write_anchor
from ..keys.succession import Keys, sealed_under
from .lines import (
    EARLIER,
    ROTATED,
    TORN,
    BrokenLine,
    Line,
    Place,
    follow,
    log_key,
    log_mark,
    read_whole,
    torn,
    unfinished,
    written,
)

Fact = str | int | float | list[str]

_ADVICE: Final = "restore log and mark as they were, or keep both elsewhere as evidence and start a new log"


class Log(Protocol):
    """Where decisions are written down."""

    def note(self, what: str, *, who: str = "agent", **facts: Fact) -> None:
        """Write a decision down durably; PrivacyError where that fails, and then it must not take effect."""
        ...


@dataclass(frozen=True, slots=True)
class Unlogged:
    """The log of a site in a simulation, which nobody runs: it keeps nothing."""

    def note(self, what: str, *, who: str = "agent", **facts: Fact) -> None:
        """Keep nothing."""


class AuditLog:
    """The lines of one file, each chained to those before; programs of the same home may write in turn."""

    def __init__(self, path: Path, identity: Ed25519PrivateKey, now: Callable[[], float] = time.time) -> None:
        """Open the file and verify all of it; make it where there is neither log nor mark.

        What an interrupted write has left at its end is kept, and the next line tells of it.

        Args:
            path: where it lies.
            identity: the site's, from which the chain's key is derived.
            now: the time in seconds since 1970.

        Raises:
            PrivacyError: a line does not hold, lines are missing, or the file cannot be used.
        """
        self._path, self._key, self._now = path, log_key(identity), now
        self._place, self._fragment = Place(), b""
        if not path.exists() and not mark_of(path).exists():
            self._note_place()
            sync(mark_of(path))
        noted = read_anchor(mark_of(path), "log")
        if not path.exists() and noted[0]:
            raise PrivacyError(f"{path}: the log is missing, and its mark is there; {_ADVICE}")
        try:
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unusable(error) from None
        try:
            with self._turn(noted):
                if not self._place.lines:
                    sync(path.parent)
                    self._append("log-begun", "agent")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def note(self, what: str, *, who: str = "agent", **facts: Fact) -> None:
        """Append a line and put it on disk.

        Args:
            what: was decided.
            who: did or asked for it: agent, coordinator or operator.
            facts: names, hashes and counts.

        Raises:
            PrivacyError: that failed; nothing that was decided may take effect.
        """
        with self._turn():
            self._append(what, who, **facts)

    def hand_over(self, identity: Ed25519PrivateKey, *, who: str, **facts: Fact) -> None:
        """Go on under another identity's key, with the line that says so.

        The new mark is on disk before that line, under a name of its own, as `Ledger.hand_over` does it.
        """
        key = log_key(identity)
        with self._turn():
            if self._fragment:
                self._write(TORN, "agent", **torn(self._fragment))
            body = self._body(ROTATED, who, {**facts, EARLIER: sealed_under(key, self._key)})
            line, after = written(key, self._place, body)
            stage_anchor(mark_of(self._path), after.lines, log_mark(key, after))
            self._put(line)
            take_staged(mark_of(self._path))
            self._key, self._place = key, after

    @contextmanager
    def _turn(self, noted: tuple[int, bytes] | None = None) -> Iterator[None]:
        """Hold the file alone, with all that others have written taken in; from its start if a mark is given."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                self._catch_up(noted)
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)
        except OSError as error:
            raise self._unusable(error) from None

    def _catch_up(self, noted: tuple[int, bytes] | None) -> None:
        held, named = os.fstat(self._file), self._path.stat()
        if (held.st_ino, held.st_dev) != (named.st_ino, named.st_dev) or held.st_size < self._place.size:
            raise PrivacyError(f"{self._path}: was replaced or cut while it was in use; {_ADVICE}")
        content = _read(self._file, self._place.size, held.st_size)
        keys = Keys(((1, self._key),))  # no rotation while this is open: it takes the home's lock
        lines = follow(keys, self._place, content) if noted is None else read_whole(self._key, content, noted)
        try:
            for line in lines:
                self._place = line.after
        except BrokenLine as error:
            raise PrivacyError(f"{self._path}: {error}; {_ADVICE}") from None
        self._fragment = unfinished(content)

    def _append(self, what: str, who: str, **facts: Fact) -> None:
        if self._fragment:
            self._write(TORN, "agent", **torn(self._fragment))
        self._write(what, who, **facts)

    def _write(self, what: str, who: str, **facts: Fact) -> None:
        line, after = written(self._key, self._place, self._body(what, who, facts))
        self._put(line)
        self._place, self._fragment = replace(after, size=after.size + len(self._fragment)), b""
        self._note_place()

    def _body(self, what: str, who: str, facts: Mapping[str, Fact]) -> dict[str, Fact]:
        at = datetime.fromtimestamp(int(self._now()), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {"n": self._place.lines + 1, "at": at, "who": who, "uid": os.getuid(), "what": what, **facts}

    def _put(self, line: bytes) -> None:
        if os.write(self._file, line) != len(line):
            raise PrivacyError(f"{self._path}: a line could not be written whole; free disk space")
        os.fsync(self._file)

    def _note_place(self) -> None:
        write_anchor(mark_of(self._path), self._place.lines, log_mark(self._key, self._place))

    def _unusable(self, error: OSError) -> PrivacyError:
        return PrivacyError(
            f"{self._path}: the log cannot be used ({error.strerror}), and nothing is decided without it; free disk "
            "space, or mend its permissions"
        )


def mark_of(path: Path) -> Path:
    """Return where a log's length and mark are noted."""
    return path.with_suffix(".mark")


def read_log(path: Path, identity: Ed25519PrivateKey) -> Iterator[Line | bytes]:
    """Yield a log's lines, each verified, and last what an unfinished write has left, if anything; nothing is changed.

    Raises:
        PrivacyError: log or mark are missing or cannot be read, or a line, which is named, does not hold or is missing.
    """
    noted = read_anchor(mark_of(path), "log")  # before the file: an agent may be adding lines
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PrivacyError(f"{path}: the log cannot be read ({error.strerror}); {_ADVICE}") from None
    try:
        yield from read_whole(log_key(identity), content, noted)
    except BrokenLine as error:
        raise PrivacyError(f"{path}: {error}; {_ADVICE}") from None
    if fragment := unfinished(content):
        yield fragment


def check_log(path: Path, identity: Ed25519PrivateKey) -> None:
    """Raise PrivacyError where a log does not hold; one that does not exist yet is well."""
    if path.exists() or mark_of(path).exists():
        for _ in read_log(path, identity):
            pass


def _read(file: int, start: int, end: int) -> bytes:
    """Return a part of an open file, which is all there as long as nobody else writes."""
    parts, at = list[bytes](), start
    while at < end and (part := os.pread(file, end - at, at)):
        parts.append(part)
        at += len(part)
    return b"".join(parts)
