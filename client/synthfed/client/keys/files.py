"""Files that only their owner may read.

Never overwrites one by accident, and never reads one that others can read, too.
"""

import os
import stat
from pathlib import Path

from synthfed.protocols.errors import ConfigError


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
