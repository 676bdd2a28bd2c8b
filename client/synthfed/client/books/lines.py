"""The lines of the log of decisions: one JSON object each, chained under a key, and what a broken chain means.

Never touches a file.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from synthfed.protocols.ids import digest
from synthfed.protocols.secagg.keys import KEY_BYTES, identity_secret

from ..entries import GENESIS
from ..keys.succession import BrokenLink, Keys

TORN: Final = "torn-write"
"""What a line tells that follows, on the same line of the file, the beginning of one that was never finished."""

ROTATED: Final = "identity-rotated"
"""What the first line under another key tells, ..."""

EARLIER: Final = "earlier"
"""... and the name of the fact that holds the key before, sealed."""

_ROTATED: Final = b'"what":"%s"' % ROTATED.encode()
_PREFIX: Final = b'{"tag":"'
_LINE: Final = re.compile(rb'\{"tag":"([0-9a-f]{64})",(.+\})', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Place:
    """How far a chain was followed: lines so far, the last tag, and bytes of the file up to here."""

    lines: int = 0
    tip: bytes = GENESIS
    size: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """A line that holds: what it says, and the place after it."""

    body: dict[str, Any]
    after: Place


class BrokenLine(ValueError):
    """A line does not hold, or is missing."""

    def __init__(self, number: int, *, is_missing: bool = False) -> None:
        """Name the line by its number in the file, from 1."""
        was = "was removed: the log is shorter than was noted" if is_missing else "was changed, added, removed or moved"
        super().__init__(f"line {number} {was}, or identity.key is not the one it was written under")


def log_key(identity: Ed25519PrivateKey) -> bytes:
    """Return the key of a site's log, 32 bytes; no other key of the site follows from it."""
    return HKDF(hashes.SHA256(), KEY_BYTES, None, b"synthfed/1/audit-log").derive(identity_secret(identity))


def log_mark(key: bytes, place: Place) -> bytes:
    """Return what is noted beside a log of this length and last tag, 32 bytes."""
    return hmac.digest(key, digest("audit-head", place.lines.to_bytes(8, "little"), place.tip), "sha256")


def written(key: bytes, place: Place, body: dict[str, Any]) -> tuple[bytes, Place]:
    """Return the bytes of the line after a place, with the newline, and the place after it."""
    text = json.dumps(body, separators=(",", ":")).encode("ascii")
    tag = _tag(key, place, text)
    line = _PREFIX + tag.hex().encode() + b'",' + text[1:] + b"\n"
    return line, Place(place.lines + 1, tag, place.size + len(line))


def follow(keys: Keys, place: Place, content: bytes) -> Iterator[Line]:
    """Yield the lines that a log goes on with; what follows the last newline is left for `unfinished`.

    Args:
        keys: of all its lines.
        place: where the content begins.
        content: of the file.

    Raises:
        BrokenLine: a line is not that of this place in this chain.
    """
    for each in content.split(b"\n")[:-1]:
        start = each.rfind(_PREFIX)
        line, fragment = each[start:], each[: max(start, 0)]
        found = _LINE.fullmatch(line) if start >= 0 else None
        text = b"{" + found[2] if found else b""
        if not found or not hmac.compare_digest(_tag(keys.at(place.lines + 1), place, text).hex().encode(), found[1]):
            raise BrokenLine(place.lines + 1)
        body: dict[str, Any] = json.loads(text)
        if (fragment or body["what"] == TORN) and (body["what"], body.get("sha256")) != (TORN, _sha256(fragment)):
            raise BrokenLine(place.lines + 1)
        place = Place(place.lines + 1, bytes.fromhex(found[1].decode()), place.size + len(each) + 1)
        yield Line(body, place)


def read_whole(key: bytes, content: bytes, noted: tuple[int, bytes]) -> Iterator[Line]:
    """Yield the lines of a whole log, which must pass through what was noted and may be longer.

    Args:
        key: of the chain's end.
        content: the file's.
        noted: length and mark, read before the file was.

    Raises:
        BrokenLine: naming the line that does not hold or is missing.
    """
    keys = _keys(key, content)
    place, passed = Place(), keys.newest_from == 1 and noted == (0, log_mark(key, Place()))
    for line in follow(keys, place, content):
        place = line.after
        passed = passed or (place.lines >= keys.newest_from and noted == (place.lines, log_mark(key, place)))
        yield line
    if not passed:
        raise BrokenLine(place.lines + 1, is_missing=True)


def last_rotation(content: bytes) -> str:
    """Return the sealed key of the last whole line if that tells of a rotation, else nothing; it is not verified."""
    return _sealed(content[: len(content) - len(unfinished(content))].split(b"\n")[-2:-1])


def _keys(newest: bytes, content: bytes) -> Keys:
    """Return the keys of all lines.

    Raises:
        BrokenLine: a line of a rotation is not as it was written.
    """
    lines = content.split(b"\n")[:-1]
    links = [(number, sealed) for number, each in enumerate(lines, 1) if (sealed := _sealed([each]))]
    try:
        return Keys.leading_to(newest, reversed(links))
    except BrokenLink as error:
        raise BrokenLine(error.place) from None


def _sealed(lines: list[bytes]) -> str:
    """Return the sealed key that the one line holds if it tells of a rotation."""
    found = _LINE.fullmatch(lines[0][max(lines[0].rfind(_PREFIX), 0) :]) if lines else None
    if not found or _ROTATED not in found[2]:  # no text within a line can hold a quote that is not escaped
        return ""
    try:
        return str(json.loads(b"{" + found[2])[EARLIER])
    except (ValueError, KeyError):
        return "-"  # which opens under no key


def unfinished(content: bytes) -> bytes:
    """Return what stands after the last newline: the beginning of a line, where a write was interrupted."""
    return content[content.rfind(b"\n") + 1 :]


def torn(fragment: bytes) -> dict[str, Any]:
    """Return what the line says that follows a fragment, so that it stands in the chain, too."""
    return {"bytes": len(fragment), "sha256": _sha256(fragment)}


def _sha256(fragment: bytes) -> str:
    return hashlib.sha256(fragment).hexdigest()


def _tag(key: bytes, place: Place, text: bytes) -> bytes:
    message = digest("audit-line", place.tip, (place.lines + 1).to_bytes(8, "little"), text)
    return hmac.digest(key, message, "sha256")
