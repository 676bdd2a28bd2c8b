"""Frames over the Unix socket between a site's relay and its agent.

Never listens on anything but a socket file that only its owner can open.
"""

import logging
import math
import os
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from synthfed.protocols.errors import RemoteProtocolError, TransportError
from synthfed.protocols.wire import HEADER, read_header

_LOG: Final = logging.getLogger(__name__)
_PART_BYTES: Final = 2**20
_STALLED_S: Final = 10.0  # a relay that stops in the middle of a frame does not hold the agent for ever

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer and when it may leave, on the agent's clock.

    Attributes:
        frame: the answer.
        due_s: not before this time.
        slot_s: where that time has passed, only at whole multiples of this after it; 0 for at once.
    """

    frame: bytes
    due_s: float
    slot_s: float = 0.0

    def leaves_s(self, now_s: float) -> float:
        """Return when the answer leaves: how late it was finished shows in whole slots only."""
        late_s = now_s - self.due_s
        if late_s <= 0 or not self.slot_s:
            return self.due_s
        return self.due_s + self.slot_s * math.ceil(late_s / self.slot_s)


class Answers(Protocol):
    """What the socket server needs of an agent."""

    def answer(self, frame: bytes) -> Reply | None:
        """Return the reply to one frame; None closes the connection."""
        ...

    def expire(self, now_s: float) -> None:
        """Forget what has had its time; called several times a second while no frame is answered."""
        ...


def serve(agent: Answers, path: Path, stop: Callable[[], bool], clock: Clock = time.monotonic) -> None:
    """Answer frames on a Unix socket (mode 0600) until ``stop`` says so; a new connection replaces the old."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, selectors.DefaultSelector() as waiting:
        mask = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
        listener.listen(4)
        waiting.register(listener, selectors.EVENT_READ)
        connection: socket.socket | None = None
        try:
            while not stop():
                agent.expire(clock())
                ready = {key.fileobj for key, _ in waiting.select(timeout=0.2)}
                if listener in ready:
                    _drop(waiting, connection)
                    connection, _ = listener.accept()
                    connection.settimeout(_STALLED_S)
                    waiting.register(connection, selectors.EVENT_READ)
                elif connection in ready and connection is not None and not _serve_one(agent, connection, clock):
                    _drop(waiting, connection)
                    connection = None
        finally:
            _drop(waiting, connection)
            path.unlink(missing_ok=True)


def connect(path: Path) -> socket.socket:
    """Return a connection to the agent.

    Raises:
        TransportError: no agent listens there.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(str(path))
    except OSError as error:
        connection.close()
        raise TransportError(f"{path}: no agent answers ({error.strerror}); start `synthfed client run`") from None
    return connection


def read_frame(connection: socket.socket) -> bytes:
    """Return one whole frame, or nothing where the peer has closed.

    Raises:
        RemoteProtocolError: what came is not a frame.
    """
    frame = bytearray()
    if not _grows_to(HEADER.size, frame, connection):
        return b""
    _, _, length = read_header(bytes(frame))
    if not _grows_to(HEADER.size + length, frame, connection):
        raise RemoteProtocolError("the connection ended inside a frame", peer="relay")
    return bytes(frame)


def _serve_one(agent: Answers, connection: socket.socket, clock: Clock) -> bool:
    """Answer one frame and return whether the connection still stands; the agent's own errors pass through."""
    try:
        frame = read_frame(connection)
    except (OSError, RemoteProtocolError) as error:
        _LOG.warning("connection closed: %s", error)
        return False
    if not frame:
        return False
    reply = agent.answer(frame)
    if reply is None:
        return False
    now_s = clock()
    time.sleep(max(0.0, reply.leaves_s(now_s) - now_s))
    try:
        connection.sendall(reply.frame)
    except OSError as error:
        _LOG.warning("the relay left before its answer: %s", error)
        return False
    return True


def _grows_to(size: int, frame: bytearray, connection: socket.socket) -> bool:
    """Read until the frame has that size, as bytes come: a header alone must not cost what it announces."""
    while len(frame) < size:
        part = connection.recv(min(_PART_BYTES, size - len(frame)))
        if not part:
            return False
        frame += part
    return True


def _drop(waiting: selectors.BaseSelector, connection: socket.socket | None) -> None:
    if connection is not None:
        waiting.unregister(connection)
        connection.close()
