"""A site's identity: the Ed25519 key by which its peers know it.

Never returns a key from a file that others can read.
"""

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from synthfed.protocols.errors import ConfigError

from .files import load_secret


def load_identity(path: Path) -> Ed25519PrivateKey:
    """Return the site's identity key.

    Raises:
        ConfigError: it is missing, readable by others, or not such a key.
    """
    content = load_secret(path)
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (TypeError, ValueError):  # the former where it asks for a passphrase
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError("is not an Ed25519 private key; restore it from your backup", where=str(path))
    return key


def identity_pem(key: Ed25519PrivateKey) -> bytes:
    """Return a private key in PEM, PKCS #8, unencrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
