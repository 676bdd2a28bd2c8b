"""The frame around every message, and the primitive fields inside: versioned, bounded, canonical.

Never interprets a field's meaning, and never reads past a declared length.
"""

import struct
from dataclasses import dataclass
from typing import Final, Self

from .errors import RemoteProtocolError

VERSION: Final = 1
MAGIC: Final = b"SF"
HEADER: Final = struct.Struct("<2sBBII")
MAX_BODY_BYTES: Final = 512 * 2**20
LONGEST_FRAME: Final = HEADER.size + MAX_BODY_BYTES
STEPS_SERVICE: Final = "synthfed.Steps"
STEPS_CALL: Final = "Relay"
"""The coordinator's step service: one bidirectional stream of frames per site."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message on the wire.

    Attributes:
        type: which message the body encodes.
        sequence: chosen by the coordinator, echoed by the site, so that a late reply is recognised.
        body: the message's fields.
    """

    type: int
    sequence: int
    body: bytes

    def encode(self) -> bytes:
        """Return header and body as bytes."""
        return HEADER.pack(MAGIC, VERSION, self.type, self.sequence, len(self.body)) + self.body

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the frame that fills ``data`` exactly.

        Raises:
            RemoteProtocolError: wrong magic, version or length.
        """
        if len(data) < HEADER.size:
            raise RemoteProtocolError("a frame is shorter than its header")
        kind, sequence, length = read_header(data[: HEADER.size])
        if len(data) != HEADER.size + length:
            raise RemoteProtocolError("a frame's length differs from its header")
        return cls(kind, sequence, data[HEADER.size :])


def read_header(header: bytes) -> tuple[int, int, int]:
    """Return type, sequence and body length of a frame's header.

    Raises:
        RemoteProtocolError: not a frame of this version, or a body above the limit.
    """
    magic, version, kind, sequence, length = HEADER.unpack(header)
    if magic != MAGIC:
        raise RemoteProtocolError("not a synthfed frame")
    if version != VERSION:
        raise RemoteProtocolError(f"frame version {version} is not supported; this program speaks version {VERSION}")
    if length > MAX_BODY_BYTES:
        raise RemoteProtocolError("a frame is longer than the limit")
    return kind, sequence, length


class Writer:
    """Builds a body field by field."""

    def __init__(self) -> None:
        """Start with no fields."""
        self._parts: list[bytes] = []

    def number(self, value: int) -> Self:
        """Append an unsigned 64-bit integer."""
        self._parts.append(value.to_bytes(8, "little"))
        return self

    def data(self, value: bytes) -> Self:
        """Append bytes with their length before them."""
        self._parts += [len(value).to_bytes(4, "little"), value]
        return self

    def text(self, value: str) -> Self:
        """Append UTF-8 text with its length before it."""
        return self.data(value.encode())

    def finish(self) -> bytes:
        """Return the body."""
        return b"".join(self._parts)


class Reader:
    """Reads a body field by field; every departure from the format is a RemoteProtocolError."""

    def __init__(self, body: bytes) -> None:
        """Start at the first field."""
        self._body = memoryview(body)
        self._position = 0

    def number(self) -> int:
        """Return an unsigned 64-bit integer."""
        return int.from_bytes(self._take(8), "little")

    def data(self, *sizes: int, limit: int = MAX_BODY_BYTES) -> bytes:
        """Return bytes; as many as one of ``sizes`` where given, at most ``limit`` otherwise."""
        length = int.from_bytes(self._take(4), "little")
        if length > limit or (sizes and length not in sizes):
            raise RemoteProtocolError("a field has the wrong length")
        return bytes(self._take(length))

    def text(self, *, limit: int = 64) -> str:
        """Return UTF-8 text of at most ``limit`` bytes."""
        try:
            return self.data(limit=limit).decode()
        except UnicodeDecodeError:
            raise RemoteProtocolError("a text field is not UTF-8") from None

    def finish(self) -> None:
        """Check that nothing is left."""
        if self._position != len(self._body):
            raise RemoteProtocolError("a message has bytes after its last field")

    def _take(self, size: int) -> memoryview:
        end = self._position + size
        if end > len(self._body):
            raise RemoteProtocolError("a message ends inside a field")
        taken = self._body[self._position : end]
        self._position = end
        return taken
