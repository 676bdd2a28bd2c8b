"""Files that only their owner may read.

Never overwrites one by accident, and never reads one that others can read, too.
"""

import os
import stat
from pathlib import Path
from typing import Final

from synthfed.protocols.errors import ConfigError

_LARGEST_BYTES: Final = 2**16


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


def load_secret(path: Path, wider: int = 0o077) -> bytes:
    """Return the content of a small file that only its owner can read; ConfigError where it is missing or others can.

    Args:
        path: the file.
        wider: bits of the mode that it must not have.
    """
    try:
        found = path.stat()
        if stat.S_ISREG(found.st_mode):  # a pipe would hold the reader for ever
            with path.open("rb") as file:
                content = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from None
    if not stat.S_ISREG(found.st_mode) or len(content) > _LARGEST_BYTES:
        raise ConfigError("is not a file of a few bytes, as it should be", where=str(path))
    if stat.S_IMODE(found.st_mode) & wider:
        raise ConfigError("can be read by others; run `chmod 600` on it", where=str(path))
    return content


def remove_parts(path: Path) -> None:
    """Remove what an interrupted writing of a file has left beside it: it may hold a key in another form."""
    for part in path.parent.glob(f".{path.name}.*.part"):
        part.unlink(missing_ok=True)
