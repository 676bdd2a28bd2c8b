"""Identity keys, one session's ephemeral keys, and the ratchets that forget used ones.

Never writes a key anywhere, and never derives two purposes from one input.
"""

import hmac
from dataclasses import dataclass
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from ..errors import LocalProtocolError, RemoteProtocolError
from ..ids import digest
from .suites import Suite

KEY_BYTES: Final = 32


_FIELD: Final = 2**255 - 19
_EIGHTH: Final = 55188659117513257062467267217118295137698188065244968500265048394206261417927
_SMALL_ORDER: Final = frozenset({0, 1, _FIELD - 1, _EIGHTH, _FIELD - _EIGHTH})
"""The y coordinates of the curve's points of order 1, 2, 4 and 8 (RFC 8032, section 5.1)."""


def is_identity(public: bytes) -> bool:
    """Return whether bytes can be a site's Ed25519 public key.

    A point of small order is none: under it one signature is good for every message.

    >>> is_identity(bytes(32)), is_identity(bytes([9] * 32)), is_identity(b"short")
    (False, True, False)
    """
    y = int.from_bytes(public, "little") & (2**255 - 1)
    return len(public) == KEY_BYTES and y % _FIELD not in _SMALL_ORDER


def sign(identity: Ed25519PrivateKey, message: bytes) -> bytes:
    """Return the Ed25519 signature over a domain-separated digest, 64 bytes."""
    return identity.sign(message)


def verify(public: bytes, message: bytes, signature: bytes, *, peer: str) -> None:
    """Check a signature.

    Raises:
        RemoteProtocolError: it is not the peer's over this message.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise RemoteProtocolError("a signature does not verify under the pinned key", peer=peer) from None


def identity_secret(identity: Ed25519PrivateKey) -> bytes:
    """Return a hash of the identity's private key, to mix into a session's own secret."""
    return digest("identity-secret", identity.private_bytes_raw())


@dataclass(frozen=True, slots=True)
class Ephemeral:
    """One session's private keys of one site; dropped when the session's shared keys are agreed."""

    x25519: X25519PrivateKey
    kem: MLKEM768PrivateKey | None

    @classmethod
    def generate(cls, suite: Suite) -> Self:
        """Return fresh keys of a suite; the library draws them from the operating system."""
        return cls(X25519PrivateKey.generate(), MLKEM768PrivateKey.generate() if suite.has_kem else None)

    @property
    def public(self) -> tuple[bytes, bytes]:
        """The raw X25519 (32 bytes) and ML-KEM-768 (1184 bytes, or none) public keys."""
        kem = self.kem.public_key().public_bytes_raw() if self.kem else b""
        return self.x25519.public_key().public_bytes_raw(), kem


def encapsulate(kem_public: bytes, *, peer: str) -> tuple[bytes, bytes]:
    """Return a fresh shared secret and its ciphertext for the peer's ML-KEM key."""
    try:
        secret, ciphertext = MLKEM768PublicKey.from_public_bytes(kem_public).encapsulate()
    except ValueError:
        raise RemoteProtocolError("its ML-KEM public key is malformed", peer=peer) from None
    return secret, ciphertext


def decapsulate(own: Ephemeral, ciphertext: bytes, *, peer: str) -> bytes:
    """Return the shared secret that a peer encapsulated to this session's ML-KEM key."""
    if own.kem is None:
        raise LocalProtocolError("nothing can be encapsulated to a session without an ML-KEM key")
    try:
        return own.kem.decapsulate(ciphertext)
    except ValueError:
        raise RemoteProtocolError("its ML-KEM ciphertext is malformed", peer=peer) from None


def pair_key(
    suite: Suite, own: Ephemeral, peer_x25519: bytes, kem_secret: bytes, salt: bytes, info: bytes, *, peer: str
) -> bytes:
    """Return the key two sites share: HKDF over the suite's agreements, so that either one alone keeps it secret.

    Args:
        suite: its name is part of the derivation: no two suites share a key.
        own: this site's keys of the session.
        peer_x25519: the peer's X25519 public key.
        kem_secret: what one of them encapsulated to the other; empty without ML-KEM-768.
        salt: the session's transcript.
        info: names of the pair, and the ciphertext.
        peer: the peer's name, for the error.

    Raises:
        RemoteProtocolError: the peer's key is of low order or has a wrong length.
        LocalProtocolError: a hybrid key without its second half.
    """
    if bool(kem_secret) != suite.has_kem:
        raise LocalProtocolError("a pair's key rests on exactly the agreements of its suite")
    try:
        agreed = own.x25519.exchange(X25519PublicKey.from_public_bytes(peer_x25519))
    except ValueError:  # a point of low order gives the all-zero secret, which the library refuses
        raise RemoteProtocolError("its X25519 public key is malformed", peer=peer) from None
    domain = b"synthfed/1/pair/" + suite.name.encode("ascii") + b"/"
    return HKDF(hashes.SHA256(), KEY_BYTES, salt, domain + info).derive(agreed + kem_secret)


def self_key(entropy: bytes, identity: Ed25519PrivateKey, salt: bytes) -> bytes:
    """Return the session's own secret for coins and noise: secret if either input is."""
    return HKDF(hashes.SHA256(), KEY_BYTES, salt, b"synthfed/1/self").derive(entropy + identity_secret(identity))


class Ratchet:
    """A key that moves forward with the counter and forgets where it was."""

    def __init__(self, key: bytes) -> None:
        """Start at counter 0."""
        self._key = bytearray(key)
        self._counter = 0

    def advance(self, counter: int) -> None:
        """Move to a counter; the keys of the counters passed over are gone.

        Raises:
            LocalProtocolError: the counter lies behind.
        """
        if counter < self._counter:
            raise LocalProtocolError("a ratchet cannot turn back")
        while self._counter < counter:
            following = hmac.digest(bytes(self._key), b"synthfed/1/next", "sha256")
            self._key[:] = following
            self._counter += 1

    def derive(self, purpose: str, context: bytes) -> bytes:
        """Return the key of one purpose in one context at the present counter, 32 bytes."""
        info = b"synthfed/1/" + purpose.encode("ascii") + b"/" + context
        return HKDFExpand(hashes.SHA256(), KEY_BYTES, info).derive(bytes(self._key))

    def erase(self) -> None:
        """Overwrite the key; best effort, as Python may have moved copies of it."""
        self._key[:] = bytes(len(self._key))
