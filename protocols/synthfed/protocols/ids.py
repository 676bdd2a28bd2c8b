"""Names and hashes that every party computes alike.

Never hashes two kinds of things under one domain.
"""

import hashlib
import re
from typing import Final

SITE_ID: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")
"""A site's name: 1-32 lower-case letters, digits and inner hyphens (it becomes part of file names)."""

FINGERPRINT: Final = "[0-9a-f]{4}(?:-[0-9a-f]{4}){4}"
"""How `fingerprint` writes one, as a regular expression."""


def digest(domain: str, *parts: bytes | memoryview) -> bytes:
    """Return SHA-256 over the domain and the length-prefixed parts, 32 bytes.

    The prefixes make the encoding injective, so that no two lists of parts share a hash input.

    >>> digest("x", b"ab", b"c") == digest("x", b"a", b"bc")
    False
    """
    state = hashlib.sha256()
    for part in (b"synthfed/1/" + domain.encode("ascii"), *parts):
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.digest()


def fingerprint(public: bytes) -> str:
    """Return 80 bits of a public value's hash in groups of four, for two people to compare by voice.

    >>> fingerprint(b"key")
    '9f81-49f5-ee0f-ba46-59d5'
    """
    text = digest("fingerprint", public).hex()[:20]
    return "-".join(text[i : i + 4] for i in range(0, 20, 4))
