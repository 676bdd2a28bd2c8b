"""Small files under a signature: canonical bytes, one spelling of everything, one key.

Never accepts a file of which a byte was changed, not even one that says the same.
"""

import base64
import binascii
from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import AfterValidator, ValidationError

from .errors import ConfigError, RemoteProtocolError, describe
from .ids import digest
from .schema import Strict
from .secagg.keys import is_identity, sign, verify
from .study import canonical_json

_HEXADECIMAL: Final = frozenset("0123456789abcdef")


def decoded(value: str) -> bytes:
    r"""Return the bytes of base64 text in its one canonical spelling, nothing where it is none.

    >>> decoded("AAE="), decoded("AAF="), decoded("?")
    (b'\x00\x01', b'', b'')
    """
    try:
        found = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):  # the latter where it is not ASCII
        return b""
    return found if base64.b64encode(found).decode() == value else b""


def public_text(key: Ed25519PrivateKey) -> str:
    """Return the public half of a key as files state it: base64."""
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def _check_key(value: str) -> str:
    if not is_identity(decoded(value)):
        raise ValueError("must be an Ed25519 public key: 32 bytes in base64, no point of small order")
    return value


def _check_hash(value: str) -> str:
    if len(value) != 64 or set(value) - _HEXADECIMAL:
        raise ValueError("must be a hash: 64 lower-case hexadecimal digits")
    return value


PublicKey = Annotated[str, AfterValidator(_check_key)]
"""An Ed25519 public key in base64, in the only spelling it has."""
Hash = Annotated[str, AfterValidator(_check_hash)]
"""Thirty-two bytes in hexadecimal."""


class SignedFile(Strict):
    """A file that one key has signed; a subclass adds its fields, and names itself and the signer."""

    NAME: ClassVar[str]
    """What it is, in an error."""
    DOMAIN: ClassVar[str]
    """Separates its signatures from those of any other kind."""

    signature: str = ""

    @property
    @abstractmethod
    def signer(self) -> str:
        """The public key that it must be signed by."""

    @property
    def content(self) -> bytes:
        """The bytes of the file."""
        return canonical_json(self.model_dump(mode="json")) + b"\n"

    @property
    def signed(self) -> bytes:
        """What the signature is over, 32 bytes."""
        return digest(self.DOMAIN, canonical_json(self.model_dump(mode="json", exclude={"signature"})))

    @classmethod
    def under(cls, key: Ed25519PrivateKey, **fields: Any) -> Self:
        """Return a file of these fields under a key's signature."""
        draft = cls(**fields)
        return draft.model_copy(update={"signature": base64.b64encode(sign(key, draft.signed)).decode()})

    @classmethod
    def parse(cls, content: bytes, *, where: str) -> Self:
        """Return what a file states, whose bytes are canonical and whose signature holds.

        Raises:
            ConfigError: it is none, or a byte of it was changed.
        """
        try:
            found = cls.model_validate_json(content)
        except ValidationError as error:
            problem = describe(error).partition("; ")[0]  # such a file is not mended by hand
            raise ConfigError(f"is not {cls.NAME}: {problem}", where=where) from None
        try:
            verify(decoded(found.signer), found.signed, decoded(found.signature), peer=where)
        except RemoteProtocolError:
            raise ConfigError("was changed, or is not signed by the key that it names", where=where) from None
        if found.content != content:
            raise ConfigError(f"is not {cls.NAME} as it was written: its bytes were changed", where=where)
        return found
