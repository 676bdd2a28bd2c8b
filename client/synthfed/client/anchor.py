"""The file beside a ledger or log in which the length and the mark of its chain are noted, so that a cut is noticed.

Never holds anything that stands in the chain itself.
"""

import contextlib
import os
from pathlib import Path
from typing import Final

from synthfed.plugins.files import sync
from synthfed.protocols.errors import PrivacyError

_MARK_BYTES: Final = 32


def write_anchor(path: Path, length: int, mark: bytes) -> None:
    """Note a chain's length and mark.

    Not synced: after a power cut an older mark may stand here, and the chain passes through that place, too.

    Raises:
        PrivacyError: the file cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(descriptor, length.to_bytes(8, "little") + mark, 0)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise PrivacyError(f"{path}: cannot be written ({error.strerror}); free disk space") from None


def stage_anchor(path: Path, length: int, mark: bytes) -> None:
    """Put a mark on disk beside the one that is noted, to take its place when what it marks is there.

    Raises:
        PrivacyError: the file cannot be written.
    """
    write_anchor(staged(path), length, mark)
    try:
        sync(staged(path))
        sync(path.parent)
    except OSError as error:
        raise PrivacyError(f"{staged(path)}: cannot be written ({error.strerror}); free disk space") from None


def take_staged(path: Path) -> None:
    """Let a staged mark, if there is one, take the place of the noted one.

    Raises:
        PrivacyError: it cannot.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            staged(path).replace(path)
        sync(path.parent)
    except OSError as error:
        raise PrivacyError(f"{path}: cannot be written ({error.strerror}); mend its folder") from None


def staged(path: Path) -> Path:
    """Return where a mark is staged."""
    return path.with_name(f"{path.name}.next")


def read_anchor(path: Path, what: str = "ledger") -> tuple[int, bytes]:
    """Return the length and the mark (beside a ledger of format 1: the last hash) that were noted of ``what``.

    Raises:
        PrivacyError: the file is missing or damaged.
    """
    try:
        noted = path.read_bytes()
    except OSError:
        noted = b""
    if len(noted) != 8 + _MARK_BYTES:
        raise PrivacyError(f"{path}: is missing or damaged; restore it together with the {what}")
    return int.from_bytes(noted[:8], "little"), noted[8:]
