"""A private key under a passphrase, as a file's content; the form is one for stewards and sites, the domain is not.

Never keeps a passphrase, and never spends more memory than its own files ask for, whatever a file says.
"""

import base64
import json
import secrets
from typing import Annotated, Final, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from pydantic import Field, ValidationError

from synthfed.protocols.errors import ConfigError, describe
from synthfed.protocols.schema import Strict
from synthfed.protocols.signed import PublicKey, public_text

_SALT_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_LOG2_N: Final = 17  # 128 MiB and some tenths of a second for every guess

Base64 = Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9+/]+={0,2}$")]


class SealedKey(Strict):
    """An Ed25519 key under a passphrase: scrypt (RFC 7914, r = 8, p = 1) gives the key of AES-256-GCM.

    PKCS #8 as the library writes it has 2048 rounds of PBKDF2, too few to hold up who has the file.

    Attributes:
        format: of the file.
        public: the key's public half.
        log2_n: how dear a guess is; bounded, for whoever can write the file could else ask for all memory.
        salt: of scrypt.
        sealed: nonce and ciphertext.
        in_keyring: whether the operating system's keyring has the passphrase.
    """

    format: Literal[1] = 1
    public: PublicKey
    log2_n: Annotated[int, Field(ge=14, le=18)]
    salt: Base64
    sealed: Base64
    in_keyring: bool = False


def is_sealed(content: bytes) -> bool:
    """Return whether a key file's content needs a passphrase."""
    return content[:1] == b"{"


def seal_key(key: Ed25519PrivateKey, passphrase: bytes, domain: bytes, *, in_keyring: bool = False) -> bytes:
    """Return a key under a passphrase, as a file's content.

    Args:
        key: what to seal.
        passphrase: not empty.
        domain: whose key it is; no other kind of key can be opened in its place.
        in_keyring: whether the operating system's keyring has the passphrase.
    """
    salt, nonce, public = secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_NONCE_BYTES), public_text(key)
    cipher = AESGCM(_wrapping(passphrase, salt, _LOG2_N))
    sealed = nonce + cipher.encrypt(nonce, key.private_bytes_raw(), domain + public.encode())
    text = [base64.b64encode(each).decode() for each in (salt, sealed)]
    made = SealedKey(public=public, log2_n=_LOG2_N, salt=text[0], sealed=text[1], in_keyring=in_keyring)
    return json.dumps(made.model_dump(mode="json", exclude_defaults=True) | {"format": 1}, indent=2).encode() + b"\n"


def parse_sealed(content: bytes, what: str, *, where: str) -> SealedKey:
    """Return a sealed key as a file states it; ConfigError, naming ``what`` it should be, where it is none."""
    try:
        return SealedKey.model_validate_json(content)
    except ValidationError as error:
        raise ConfigError(f"is not {what}: {describe(error)}", where=where) from None


def open_key(found: SealedKey, passphrase: bytes, domain: bytes, *, where: str) -> Ed25519PrivateKey:
    """Return the key that was sealed.

    Raises:
        ConfigError: the passphrase is wrong, the file was changed, or this machine has not the memory.
    """
    try:
        wrapping = _wrapping(passphrase, base64.b64decode(found.salt), found.log2_n)
        sealed = base64.b64decode(found.sealed)
        raw = AESGCM(wrapping).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], domain + found.public.encode())
        return Ed25519PrivateKey.from_private_bytes(raw)
    except (InvalidTag, ValueError):
        raise ConfigError("the passphrase is wrong, or the file was changed", where=where) from None
    except MemoryError:
        needed = 2 ** (found.log2_n + 10) // 2**20
        raise ConfigError(f"to open it takes {needed} MiB of memory, which this machine has not", where=where) from None


def _wrapping(passphrase: bytes, salt: bytes, log2_n: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=2**log2_n, r=8, p=1).derive(passphrase)
