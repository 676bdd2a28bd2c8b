"""A steward's key: the file that a person keeps, plain or under a passphrase.

Never writes a private key that others can read, and never keeps a passphrase.
"""

from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from synthfed.protocols.signed import public_text

from ..keys.files import load_secret, write_secret
from ..keys.identity import identity_pem, parse_pem
from ..keys.sealed import is_sealed, open_key, parse_sealed, seal_key

_DOMAIN: Final = b"synthfed/1/steward-key"


def make_key(path: Path, passphrase: bytes) -> str:
    """Write a new key into a file of mode 0600 and return its public key in base64.

    Args:
        path: must not exist.
        passphrase: empty for a PKCS #8 file (PEM) without one.

    Raises:
        ConfigError: the file exists or cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    public = public_text(key)
    write_secret(path, seal_key(key, passphrase, _DOMAIN) if passphrase else identity_pem(key))
    return public


def needs_passphrase(path: Path) -> bool:
    """Return whether a key's file needs a passphrase; ConfigError where it cannot be read or others can read it."""
    return is_sealed(load_secret(path))


def load_key(path: Path, passphrase: bytes) -> Ed25519PrivateKey:
    """Return a steward's key.

    Raises:
        ConfigError: the file is missing, readable by others or no key, or the passphrase is wrong.
    """
    content = load_secret(path)
    if not is_sealed(content):
        return parse_pem(content, where=str(path))
    return open_key(parse_sealed(content, "a steward's key", where=str(path)), passphrase, _DOMAIN, where=str(path))
