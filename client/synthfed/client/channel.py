"""Frames over the Unix socket between a site's relay and its agent.

Never listens on anything but a socket file that only its owner can open.
"""

import logging
import math
import os
import selectors
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from synthfed.protocols.errors import RemoteProtocolError, TransportError
from synthfed.protocols.wire import HEADER, read_header

_LOG: Final = logging.getLogger(__name__)
_PART_BYTES: Final = 2**20

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Pace:
    """How long one frame may take on the socket, from its first byte to its last.

    One limit for the whole frame: a limit for each part would let a peer that trickles hold the agent for ever,
    and with it the end of a session, of the agent, and every other connection.

    Attributes:
        fixed_s: for a frame of any length.
        least_bytes_s: the rate that makes up the rest; a Unix socket on a busy machine is much faster.
    """

    fixed_s: float = 10.0
    least_bytes_s: float = 2.0**24

    def limit_s(self, size: int) -> float:
        """Return how long a frame of this many bytes may take."""
        return self.fixed_s + size / self.least_bytes_s


_PACE: Final = Pace()


def since_boot_s() -> float:
    """Return seconds on a monotonic clock that, where the system has one, also runs while the machine sleeps.

    A session's keys must not outlive their time because a lid was closed.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()


def set_once(wall_s: float, clock: Clock = since_boot_s) -> Clock:
    """Return a clock of seconds since 1970 that goes on from one look: setting the machine's time does not move it."""
    start_s = wall_s - clock()
    return lambda: start_s + clock()


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


def serve(agent: Answers, path: Path, stop: Callable[[], bool], clock: Clock, pace: Pace = _PACE) -> None:
    """Answer frames on a Unix socket (mode 0600) until ``stop`` says so; a new connection replaces the old.

    Args:
        agent: answers.
        path: where the socket's file is made.
        stop: asked several times a second, except while a frame comes, is answered or leaves.
        clock: the agent's own, on which its answers are due.
        pace: how long a frame may take in either direction.
    """
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
                    waiting.register(connection, selectors.EVENT_READ)
                elif connection in ready and connection is not None and not _serve_one(agent, connection, clock, pace):
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


def read_frame(connection: socket.socket, pace: Pace | None = None) -> bytes:
    """Return one whole frame, or nothing where the peer has closed.

    Args:
        connection: to the peer; with a pace, its time limit is overwritten.
        pace: how long the frame may take from now on; None to wait as long as the connection does.

    Raises:
        RemoteProtocolError: what came is not a frame.
        TimeoutError: it took longer than its pace allows.
    """
    frame, start_s = bytearray(), time.monotonic()
    if not _grows_to(HEADER.size, frame, connection, start_s + pace.limit_s(HEADER.size) if pace else None):
        return b""
    _, _, length = read_header(bytes(frame))
    size = HEADER.size + length
    if not _grows_to(size, frame, connection, start_s + pace.limit_s(size) if pace else None):
        raise RemoteProtocolError("the connection ended inside a frame", peer="relay")
    return bytes(frame)


def _serve_one(agent: Answers, connection: socket.socket, clock: Clock, pace: Pace) -> bool:
    """Answer one frame and return whether the connection still stands; the agent's own errors pass through."""
    try:
        frame = read_frame(connection, pace)
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
    connection.settimeout(pace.limit_s(len(reply.frame)))  # of the whole call, not of each part
    try:
        connection.sendall(reply.frame)
    except OSError as error:
        _LOG.warning("the relay left before its answer: %s", error)
        return False
    return True


def _grows_to(size: int, frame: bytearray, connection: socket.socket, deadline_s: float | None) -> bool:
    """Read until the frame has that size, as bytes come: a header alone must not cost what it announces."""
    while len(frame) < size:
        if deadline_s is not None:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("a frame came too slowly")
            connection.settimeout(left_s)
        part = connection.recv(min(_PART_BYTES, size - len(frame)))
        if not part:
            return False
        frame += part
    return True


def _drop(waiting: selectors.BaseSelector, connection: socket.socket | None) -> None:
    if connection is not None:
        waiting.unregister(connection)
        connection.close()
