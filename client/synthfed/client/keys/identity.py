"""A site's identity: the Ed25519 key by which its peers know it, in a file as it is or under a passphrase.

Never returns a key from a file that others can read, and never leaves the home without one that can be opened.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from synthfed.plugins.files import write_whole
from synthfed.protocols.errors import ConfigError

from .files import load_secret, remove_parts
from .sealed import SealedKey, is_sealed, open_key, parse_sealed, seal_key

Unlock = Callable[[SealedKey], bytes]
"""Returns the passphrase of a sealed identity; ConfigError where there is none to be had."""

_DOMAIN: Final = b"synthfed/1/identity-key"


def locked(sealed: SealedKey) -> bytes:
    """Stand for a caller that has no passphrase."""
    del sealed
    raise ConfigError("identity.key is under a passphrase, and none was given")


def next_identity(path: Path) -> Path:
    """Return where the key lies that is to follow an identity, as long as a rotation is not finished."""
    return path.with_suffix(".next")


def load_identity(path: Path, unlock: Unlock = locked, *, is_rotating: bool = False) -> Ed25519PrivateKey:
    """Return the site's identity key.

    Args:
        path: where it lies.
        unlock: is asked for the passphrase of a key that has one.
        is_rotating: whether the caller finishes a rotation, during which ledger and log may be under either key.

    Raises:
        ConfigError: it is missing, readable by others or not such a key, or the passphrase is wrong; or a rotation
            was interrupted.
    """
    if not is_rotating and path.suffix != ".next" and next_identity(path).exists():
        raise ConfigError(
            "is to be followed by another key, and that was interrupted; run `synthfed client key rotate` to finish it",
            where=str(path),
        )
    content = load_secret(path)
    if not is_sealed(content):
        return parse_pem(content, where=str(path))
    sealed = parse_sealed(content, "a site's identity key", where=str(path))
    return open_key(sealed, unlock(sealed), _DOMAIN, where=str(path))


def parse_pem(content: bytes, *, where: str) -> Ed25519PrivateKey:
    """Return a key from PEM; ConfigError where it is none."""
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (TypeError, ValueError):  # the former where it asks for a passphrase
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError("is not an Ed25519 private key; restore it from your backup", where=where)
    return key


def identity_pem(key: Ed25519PrivateKey) -> bytes:
    """Return a private key in PEM, PKCS #8, unencrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def identity_content(key: Ed25519PrivateKey, passphrase: bytes = b"", *, in_keyring: bool = False) -> bytes:
    """Return what an identity's file holds: the key under a passphrase, in PEM where that is empty."""
    return seal_key(key, passphrase, _DOMAIN, in_keyring=in_keyring) if passphrase else identity_pem(key)


def rewrite_identity(path: Path, key: Ed25519PrivateKey, content: bytes, passphrase: bytes) -> None:
    """Write the same key in another form, all or nothing: whatever happens, the old file or the new one is there.

    Args:
        path: where it lies.
        key: that very key.
        content: its new form.
        passphrase: of the new form, empty for none.

    Raises:
        ConfigError: it cannot be written, or what would be written does not open; the old form stands.
    """
    where = str(path)
    if is_sealed(content):
        again = open_key(parse_sealed(content, "a site's identity key", where=where), passphrase, _DOMAIN, where=where)
    else:
        again = parse_pem(content, where=where)
    if again.private_bytes_raw() != key.private_bytes_raw():
        raise ConfigError("the new form of the key does not open; the old one stands", where=where)
    remove_parts(path)
    write_whole(path, [content], private=True)
