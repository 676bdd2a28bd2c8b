"""The suites of keys: what two sites agree on a key by, and what each must send for it.

Never lets a message choose: the study's terms name the suite, and every message must fit it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

KEM_KEY_BYTES: Final = 1184
KEM_CIPHERTEXT_BYTES: Final = 1088

KeyAgreement = Literal["hybrid", "x25519"]
"""``hybrid`` is X25519 together with ML-KEM-768: a pair's key stays secret while either of them holds."""


@dataclass(frozen=True, slots=True)
class Suite:
    """One suite of keys.

    Attributes:
        name: enters the policy's hash, and so every signature and the transcript, and every pair's key.
        has_kem: whether ML-KEM-768 stands beside X25519.
    """

    name: str
    has_kem: bool

    def fits(self, kem_key: bytes) -> bool:
        """Return whether a site's ML-KEM-768 key is of this suite: there, or empty where none is used."""
        return len(kem_key) == (KEM_KEY_BYTES if self.has_kem else 0)

    def receivers(self, site: str, members: Iterable[str]) -> tuple[str, ...]:
        """Return to whom a site encapsulates: every later name in order, nobody without ML-KEM-768.

        >>> SUITES["hybrid"].receivers("b", ["d", "a", "b", "c"]), SUITES["x25519"].receivers("b", ["c"])
        (('c', 'd'), ())
        """
        return tuple(sorted(member for member in members if member > site)) if self.has_kem else ()


SUITES: Final[Mapping[KeyAgreement, Suite]] = {
    "hybrid": Suite("ed25519+x25519+mlkem768+hkdf-sha256/1", has_kem=True),
    "x25519": Suite("ed25519+x25519+hkdf-sha256/1", has_kem=False),
}
"""The cipher of masks is a term of its own."""
