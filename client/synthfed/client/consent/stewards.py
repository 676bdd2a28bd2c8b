"""A steward's key: the file that a person keeps, plain or under a passphrase.

Never writes a private key that others can read, and never keeps a passphrase.
"""

import base64
import json
import secrets
from pathlib import Path
from typing import Annotated, Final, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from pydantic import Field, ValidationError

from synthfed.protocols.errors import ConfigError, describe
from synthfed.protocols.schema import Strict
from synthfed.protocols.signed import PublicKey, public_text

from ..keys.files import load_secret, write_secret
from ..keys.identity import identity_pem, load_identity

_DOMAIN: Final = b"synthfed/1/steward-key"
_SALT_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_LOG2_N: Final = 17  # 128 MiB and some tenths of a second for every guess

Base64 = Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9+/]+={0,2}$")]


class SealedKey(Strict):
    """An Ed25519 key under a passphrase: scrypt (RFC 7914, r = 8, p = 1) gives the key of AES-256-GCM.

    PKCS #8 as the library writes it has 2048 rounds of PBKDF2, too few to hold up who has the file.
    """

    format: Literal[1] = 1
    public: PublicKey
    log2_n: Annotated[int, Field(ge=14, le=20)]
    salt: Base64
    sealed: Base64


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
    write_secret(path, _sealed(key, public, passphrase) if passphrase else identity_pem(key))
    return public


def is_sealed(path: Path) -> bool:
    """Return whether a key's file needs a passphrase; ConfigError where it cannot be read or others can read it."""
    return load_secret(path)[:1] == b"{"


def load_key(path: Path, passphrase: bytes) -> Ed25519PrivateKey:
    """Return a steward's key.

    Raises:
        ConfigError: the file is missing, readable by others or no key, or the passphrase is wrong.
    """
    content = load_secret(path)
    if content[:1] != b"{":
        return load_identity(path)
    try:
        found = SealedKey.model_validate_json(content)
    except ValidationError as error:
        raise ConfigError(f"is not a steward's key: {describe(error)}", where=str(path)) from None
    try:
        wrapping = _wrapping(passphrase, base64.b64decode(found.salt), found.log2_n)
        sealed = base64.b64decode(found.sealed)
        raw = AESGCM(wrapping).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _DOMAIN + found.public.encode())
        return Ed25519PrivateKey.from_private_bytes(raw)
    except (InvalidTag, ValueError):
        raise ConfigError("the passphrase is wrong, or the file was changed", where=str(path)) from None


def _sealed(key: Ed25519PrivateKey, public: str, passphrase: bytes) -> bytes:
    salt, nonce = secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_NONCE_BYTES)
    cipher = AESGCM(_wrapping(passphrase, salt, _LOG2_N))
    sealed = nonce + cipher.encrypt(nonce, key.private_bytes_raw(), _DOMAIN + public.encode())
    text = [base64.b64encode(each).decode() for each in (salt, sealed)]
    fields = SealedKey(public=public, log2_n=_LOG2_N, salt=text[0], sealed=text[1]).model_dump(mode="json")
    return json.dumps(fields, indent=2).encode() + b"\n"


def _wrapping(passphrase: bytes, salt: bytes, log2_n: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=2**log2_n, r=8, p=1).derive(passphrase)
