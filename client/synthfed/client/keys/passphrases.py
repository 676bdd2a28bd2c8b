"""Where the passphrase of an identity comes from without a terminal: a private file, the service manager, the keyring.

Never writes a passphrase anywhere, nor takes one from arguments or an environment, which other processes can see.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from synthfed.protocols.errors import ConfigError

from ..config import Home
from .files import load_secret
from .keyring_entry import entry_name, fetch_passphrase
from .sealed import SealedKey

CREDENTIAL: Final = "synthfed-passphrase"
"""The name of the credential that a service manager may give (systemd: LoadCredential= or SetCredentialEncrypted=)."""

LONGEST_BYTES: Final = 1024
"""The longest passphrase: it must fit into a pipe that nobody reads yet."""


def credentials_folder() -> Path | None:
    """Return where the service manager has put this process's credentials, None where it gave none."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(folder) if folder else None


def read_passphrase(path: Path, wider: int = 0o077) -> bytes:
    """Return the first line of a file that only its owner can read; ConfigError where that is no passphrase."""
    return checked(load_secret(path, wider).partition(b"\n")[0].removesuffix(b"\r"), where=str(path))


def checked(passphrase: bytes, *, where: str) -> bytes:
    """Return a passphrase; ConfigError where it is empty or too long."""
    if not passphrase:
        raise ConfigError("is empty", where=where)
    if len(passphrase) > LONGEST_BYTES:
        raise ConfigError(f"is longer than {LONGEST_BYTES} bytes", where=where)
    return passphrase


class Passphrases:
    """Looks for the passphrase of a home's identity, and knows it from then on."""

    def __init__(self, home: Home, file: Path | None, ask: Callable[[str], bytes]) -> None:
        """Remember where to look.

        Args:
            home: the site's.
            file: whose first line is the passphrase; None for the other places.
            ask: asks a person, with a prompt.
        """
        self._home = home
        self._file = file
        self._ask = ask
        self.found: bytes | None = None

    def __call__(self, sealed: SealedKey) -> bytes:
        """Return the passphrase from the given file, the keyring, the credentials or a person, whichever is first.

        Raises:
            ConfigError: it cannot be had from there.
        """
        if sealed.in_keyring and self._file is None:
            self.found = fetch_passphrase(entry_name(self._home.load().site, sealed.public))  # one of each key's own
        elif self.found is None:
            self.found = self._look()
        return self.found

    def _look(self) -> bytes:
        if self._file is not None:
            return read_passphrase(self._file)
        folder = credentials_folder()
        if folder is not None and (folder / CREDENTIAL).exists():
            # The service manager may let the service's user in by an access list, which shows as the group's bit.
            return read_passphrase(folder / CREDENTIAL, 0o037)
        return self._ask(f"Passphrase of {self._home.identity}")
