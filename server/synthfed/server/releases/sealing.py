"""Seals a release's folder: every file by its hash, under one key.

Never seals a folder with links in it, whose files could be others tomorrow.
"""

import hashlib
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from synthfed.plugins.files import write_whole
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.release_seal import ReleaseSeal

from ..evidence import Setting

SEAL: Final = "seal.json"


def seal_folder(folder: Path, key: Ed25519PrivateKey, *, study: bytes, setting: Setting) -> ReleaseSeal:
    """Write and return the seal of everything that a folder holds, in place of an earlier one.

    Args:
        folder: the release.
        key: the coordinator's, or one made for a simulation.
        study: the hash of the study's terms.
        setting: where the tables were.

    Raises:
        ConfigError: the folder holds a link or no file, or a file cannot be read or written.
    """
    seal = ReleaseSeal.of(key, study=study, setting=setting, files=hashes(folder))
    write_whole(folder / SEAL, [seal.content])
    return seal


def hashes(folder: Path) -> dict[str, bytes]:
    """Return the SHA-256 of every file below a folder but the seal, by its path with slashes.

    Raises:
        ConfigError: the folder holds a link, or a file cannot be read.
    """
    found = {}
    try:
        for path in sorted(folder.rglob("*")):
            if path.is_symlink():
                raise ConfigError("is a link, and a release holds none; copy the release again", where=str(path))
            if path.is_file() and path != folder / SEAL:
                with path.open("rb") as file:
                    found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(error.filename or folder)) from None
    return found
