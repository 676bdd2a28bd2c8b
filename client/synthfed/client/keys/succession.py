"""Which key of a chain stands for which place in it, where the site's identity was rotated meanwhile.

The place at which a new key begins holds the key before it, sealed under the new one. What stands before is still
bound: the first tag under the new key covers the last one under the old, which no other history meets.
Never takes a key from a place that does not open under the key after it.
"""

import base64
import binascii
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32


class BrokenLink(ValueError):
    """The key before a place cannot be had from it."""

    def __init__(self, place: int) -> None:
        """Remember the place."""
        super().__init__(place)
        self.place = place


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one chain.

    Attributes:
        begun: first place of each key, and the key, in their order; the first of them begins at 1.
    """

    begun: tuple[tuple[int, bytes], ...]

    @classmethod
    def leading_to(cls, newest: bytes, links: Iterable[tuple[int, str]]) -> Self:
        """Return all keys of a chain.

        Args:
            newest: the key of its end.
            links: each place at which another key begins, with the sealed key before it, the last place first.

        Raises:
            BrokenLink: one of them does not open.
        """
        begun, key = list[tuple[int, bytes]](), newest
        for place, sealed in links:
            begun.append((place, key))
            before = unsealed(key, sealed)
            if before is None:
                raise BrokenLink(place)
            key = before
        return cls(((1, key), *reversed(begun)))

    @property
    def newest_from(self) -> int:
        """The first place of the newest key; a mark under an earlier one no longer tells how long the chain was."""
        return self.begun[-1][0]

    def at(self, place: int) -> bytes:
        """Return the key of a place, from 1."""
        return next(key for first, key in reversed(self.begun) if first <= max(place, 1))


def sealed_under(newer: bytes, older: bytes) -> str:
    """Return a chain's key, 32 bytes, sealed under the key that follows it, as text."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return base64.b64encode(nonce + AESGCM(_sealing(newer)).encrypt(nonce, older, None)).decode()


def unsealed(newer: bytes, sealed: str) -> bytes | None:
    """Return the key that was sealed under a newer one, None where that is not so."""
    try:
        content = base64.b64decode(sealed, validate=True)
        return AESGCM(_sealing(newer)).decrypt(content[:_NONCE_BYTES], content[_NONCE_BYTES:], None)
    except (InvalidTag, ValueError, TypeError, binascii.Error):
        return None


def _sealing(newer: bytes) -> bytes:
    return HKDFExpand(hashes.SHA256(), _KEY_BYTES, b"synthfed/1/earlier-chain-key").derive(newer)
