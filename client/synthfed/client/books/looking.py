"""A look into a ledger's file that another process may be writing to, or may have been killed in.

Never writes to the ledger's folder, nor makes a file in it.
"""

import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from synthfed.protocols.errors import PrivacyError

from ..chain import Entry, read_chain, version_of
from ..ledger_file import FORMAT

LONGEST_S: Final = 5.0
"""How long a ledger that cannot be read at this moment is tried again."""

_PAUSE_S: Final = 0.05
_LOG_HEADER_BYTES: Final = 32  # of a write-ahead log: https://www.sqlite.org/fileformat2.html#walformat
_PASSING: Final = frozenset(
    (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
)
"""What SQLite says, without the parts that say it closer, while a writer comes or goes, or after one was killed."""

Look = Callable[[sqlite3.Connection], tuple[Entry, ...]]


def looked_at(path: Path, look: Look, clock: Callable[[], float] = time.monotonic) -> tuple[Entry, ...]:
    """Return what a look into the ledger gives.

    Where the index of its write-ahead log is not to be used, as a killed writer may leave it, only who writes to the
    folder could mend that; so the look is into a private copy, for which SQLite makes another.

    Args:
        path: the ledger's file.
        look: reads it, in one transaction.
        clock: seconds, monotonic.

    Raises:
        PrivacyError: it cannot be read; or the look found that it does not hold.
    """
    until_s = clock() + LONGEST_S
    while True:
        try:
            with closing(sqlite3.connect(_uri(path), uri=True)) as db:
                return look(db)
        except sqlite3.Error as error:
            if _has_passed(error):
                raise _unreadable(path, error) from None
            reason: Exception = error
        try:
            found = _look_into_copy(path, look)
        except (sqlite3.Error, OSError) as error:
            found, reason = None, error
        if found is not None:
            return found
        if clock() > until_s:
            raise _unreadable(path, reason) from None
        time.sleep(_PAUSE_S)


def entries_in(db: sqlite3.Connection, key: bytes, noted: tuple[int, bytes], path: Path) -> tuple[Entry, ...]:
    """Return all entries of an open ledger in one state of it, each verified; see `read_chain`."""
    version = version_of(db)
    if version != FORMAT:
        raise PrivacyError(f"{path}: ledger format {version} is not supported; this program reads {FORMAT}")
    db.execute("BEGIN")  # one state of it, whatever is added meanwhile
    return tuple(read_chain(db, key, noted, path))


def _has_passed(error: sqlite3.Error) -> bool:
    """Return whether trying again would be in vain."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF not in _PASSING


def _unreadable(path: Path, error: Exception) -> PrivacyError:
    return PrivacyError(
        f"{path}: the ledger cannot be read ({error}); try again, or start the agent once where none is running"
    )


def _uri(path: Path) -> str:
    """Return how SQLite opens a ledger without a trace of it.

    Where there is a write-ahead log its index is there, too, and is read only; else the file alone is all there is,
    and SQLite would make both to look at it. A log of a header alone holds nothing, and where its writer was killed
    then, SQLite would wait for another one for ten seconds.
    """
    log = _log(path)
    has_log = log.exists() and log.stat().st_size > _LOG_HEADER_BYTES
    return f"{path.absolute().as_uri()}?mode=ro&{'readonly_shm=1' if has_log else 'immutable=1'}"


def _log(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _look_into_copy(path: Path, look: Look) -> tuple[Entry, ...] | None:
    """Return what a look into a private copy of ledger and log gives; None where they changed meanwhile."""
    log, database = _content(_log(path)), _content(path)
    # Neither changed between its two readings, so there is a moment at which both were as the first ones have them.
    if (log, database) != (_content(_log(path)), _content(path)):
        return None
    with tempfile.TemporaryDirectory() as folder:  # of mode 0700
        copy = Path(folder) / path.name
        copy.write_bytes(database)
        _log(copy).write_bytes(log)
        with closing(sqlite3.connect(copy)) as db:
            return look(db)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
