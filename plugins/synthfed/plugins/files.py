"""Files that people and other programs rely on: read with a clear error, written all or nothing.

Never leaves a half-written file under its name, and never widens or narrows who may enter a folder.
"""

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from synthfed.protocols.errors import ConfigError

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def read_text(path: Path, *, advice: str = "") -> str:
    """Return a file's UTF-8 text.

    Raises:
        ConfigError: it cannot be read, or is not UTF-8; ``advice`` says what to do then.
    """
    after = f"; {advice}" if advice else ""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}{after}", where=str(path)) from None
    except UnicodeDecodeError:
        raise ConfigError(f"is not UTF-8 text{after or '; save it as UTF-8'}", where=str(path)) from None


def write_whole(path: Path, parts: Iterable[bytes], *, private: bool = False) -> None:
    """Write a file, replacing any older one all or nothing; it is on disk when this returns.

    Args:
        path: where to.
        parts: its content.
        private: for its owner alone (mode 0600), whatever the umask and the older file's mode.

    Raises:
        ConfigError: it cannot be written; an older file stands.
    """
    with whole_file(path, private=private) as file:
        file.writelines(parts)


def owner_only(path: str, flags: int) -> int:
    """Open a file for the built-in ``open``; one that this makes has mode 0600."""
    return os.open(path, flags, 0o600)


@contextlib.contextmanager
def whole_file(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """Give a file to write into, which replaces any older one when all went well, and not at all otherwise.

    Raises:
        ConfigError: it cannot be written; an older file stands.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb", opener=owner_only if private else None) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        sync(path.parent)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}; {room(error)}", where=str(path)) from None
    finally:
        with contextlib.suppress(OSError):  # never in place of the error that is on its way
            part.unlink()


def write_to_watch(path: Path, content: bytes) -> None:
    """Replace a file that people only watch, durable or not, and without a word where that cannot be.

    On a full disk the new content goes into the blocks that the file has already: a last word must reach its reader.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        with contextlib.suppress(OSError), path.open("r+b") as file:
            file.write(content)
            file.truncate()


def room(error: OSError) -> str:
    """Return what to do about a file that cannot be written: a full disk has another way out than a wrong place."""
    return "free disk space" if error.errno in _FULL else "choose another place"


def sync(path: Path) -> None:
    """Put a file's or folder's present content on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_private_folder(path: Path) -> None:
    """Make a folder that only its owner can enter (mode 0700); one that exists must be such a folder already.

    Raises:
        ConfigError: it cannot be made or written to, or others can enter it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.stat().st_mode & 0o077:
            raise ConfigError(
                "exists and can be entered by others; choose a new folder or `chmod 700` it", where=str(path)
            )
    except OSError as error:
        raise ConfigError(f"cannot be made: {error.strerror}", where=str(path)) from None
    if not os.access(path, os.W_OK):
        raise ConfigError("cannot be written to", where=str(path))
