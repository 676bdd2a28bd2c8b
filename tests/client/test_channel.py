"""Frames over the agent's Unix socket: who may open it, what closes it, and when an answer leaves."""

import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from synthfed.client.channel import Pace, Reply, connect, read_frame, serve, since_boot_s
from synthfed.client.relay import relay_frame
from synthfed.protocols.errors import RemoteProtocolError, TransportError
from synthfed.protocols.wire import HEADER, MAGIC, MAX_BODY_BYTES, VERSION, Frame

FRAME = Frame(1, 7, b"hello").encode()


class Echo:
    """Answers every frame with itself, ``delay_s`` later by the clock; closes, or raises what it is given."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.closes = False
        self.error: Exception | None = None
        self.frames: list[bytes] = []
        self.looks = 0

    def answer(self, frame: bytes) -> Reply | None:
        self.frames.append(frame)
        if self.closes:
            return None
        if self.error is not None:
            raise self.error
        return Reply(frame, time.monotonic() + self.delay_s)

    def expire(self, now_s: float) -> None:
        assert abs(now_s - time.monotonic()) < 10
        self.looks += 1


class Served:
    """A server in a thread, and what ended it."""

    def __init__(self, path: Path, pace: Pace = Pace()) -> None:  # noqa: B008 - frozen
        self.agent = Echo()
        self.path = path
        self.pace = pace
        self.ended: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()
        until(lambda: is_listening(self.path))  # its file is there a moment earlier

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def wait(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            serve(self.agent, self.path, self._stop.is_set, time.monotonic, self.pace)
        except Exception as error:  # noqa: BLE001 - looked at by the test
            self.ended = error


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_listening(path: Path) -> bool:
    try:
        connect(path).close()
    except TransportError:
        return False
    return True


def opened(path: Path) -> socket.socket:
    connection = connect(path)
    connection.settimeout(10)
    return connection


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    server = Served(tmp_path / "agent.sock")
    server.start()
    yield server
    server.stop()


def exchanged(connection: socket.socket, frame: bytes = FRAME) -> bytes:
    connection.sendall(frame)
    return read_frame(connection)


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_only_the_owner_may_open_the_socket(served: Served) -> None:
    assert stat.S_IMODE(served.path.stat().st_mode) == 0o600


def test_frames_are_answered_one_after_another_on_one_connection(served: Served) -> None:
    frames = [Frame(1, number, bytes(number * 1000)).encode() for number in range(5)]
    with opened(served.path) as connection:
        assert [exchanged(connection, frame) for frame in frames] == frames


def test_a_connection_whose_frame_the_agent_does_not_know_is_closed_and_the_next_one_served(served: Served) -> None:
    served.agent.closes = True
    with opened(served.path) as connection:
        assert exchanged(connection) == b""
    assert relay_frame(FRAME, served.path) == b""
    served.agent.closes = False
    with opened(served.path) as connection:
        assert exchanged(connection) == FRAME


def test_the_agent_looks_at_its_sessions_time_also_while_nobody_speaks(served: Served) -> None:
    looks = served.agent.looks
    until(lambda: served.agent.looks > looks + 2)
    assert served.agent.frames == []


def test_a_frame_that_comes_in_pieces_is_answered_whole(served: Served) -> None:
    with opened(served.path) as connection:
        for byte in FRAME:
            connection.sendall(bytes([byte]))
            time.sleep(0.002)
        assert read_frame(connection) == FRAME


def test_a_new_connection_replaces_the_old_one(served: Served) -> None:
    with opened(served.path) as old, opened(served.path) as new:
        assert exchanged(new) == FRAME
        assert is_closed(old)
        assert exchanged(new) == FRAME


@pytest.mark.parametrize("part", [FRAME[:1], FRAME[: HEADER.size], FRAME[:-1], b""])
def test_a_connection_that_ends_inside_a_frame_leaves_the_server_standing(served: Served, part: bytes) -> None:
    with opened(served.path) as connection:
        connection.sendall(part)
    with opened(served.path) as connection:
        assert exchanged(connection) == FRAME
    assert served.agent.frames == [FRAME]


@pytest.mark.parametrize(
    "header",
    [
        HEADER.pack(MAGIC, VERSION, 1, 0, MAX_BODY_BYTES + 1),
        HEADER.pack(MAGIC, VERSION, 1, 0, 2**32 - 1),
        HEADER.pack(b"XX", VERSION, 1, 0, 0),
        HEADER.pack(MAGIC, VERSION + 1, 1, 0, 0),
        b"GET / HTTP/1.1\r\n",
    ],
    ids=["a little too long", "far too long", "wrong magic", "wrong version", "another protocol"],
)
def test_a_header_that_is_too_long_or_foreign_closes_the_connection_and_no_more(served: Served, header: bytes) -> None:
    with opened(served.path) as connection:
        connection.sendall(header)
        assert is_closed(connection)
    with opened(served.path) as connection:
        assert exchanged(connection) == FRAME
    assert served.agent.frames == [FRAME]


def test_an_answer_does_not_leave_before_its_time(served: Served) -> None:
    served.agent.delay_s = 0.3
    with opened(served.path) as connection:
        start_s = time.monotonic()
        assert exchanged(connection) == FRAME
        assert time.monotonic() - start_s >= 0.3


def test_a_relay_that_left_before_the_answer_does_not_stop_the_server(served: Served) -> None:
    served.agent.delay_s = 0.2
    with opened(served.path) as connection:
        connection.sendall(FRAME)
        until(lambda: bool(served.agent.frames))
    served.agent.delay_s = 0.0
    with opened(served.path) as connection:
        assert exchanged(connection) == FRAME


@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
def test_an_agent_that_must_stop_takes_the_server_with_it(tmp_path: Path) -> None:
    server = Served(tmp_path / "agent.sock")
    server.start()
    server.agent.error = ValueError("a record")
    with opened(server.path) as connection:
        connection.sendall(FRAME)
        server.wait()
    assert isinstance(server.ended, ValueError)
    with pytest.raises(TransportError):
        connect(server.path)


@pytest.mark.parametrize("error", [OSError("disk"), RemoteProtocolError("x")], ids=lambda error: type(error).__name__)
def test_an_error_inside_the_agent_is_never_taken_for_one_of_the_connection(served: Served, error: Exception) -> None:
    served.agent.error = error
    with opened(served.path) as connection:
        connection.sendall(FRAME)
        assert is_closed(connection)
    served.agent.error = None
    with pytest.raises((TransportError, OSError)), opened(served.path) as connection:
        assert exchanged(connection) != FRAME


def test_a_stopped_server_leaves_no_socket_behind(tmp_path: Path) -> None:
    server = Served(tmp_path / "agent.sock")
    server.start()
    server.stop()
    assert server.ended is None
    assert not server.path.exists()


def test_a_socket_left_by_a_killed_agent_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with pytest.raises(TransportError, match="no agent answers"):
        connect(path)
    server = Served(path)
    server._thread.start()
    try:
        until(lambda: answers(path))
    finally:
        server.stop()


def answers(path: Path) -> bool:
    try:
        return relay_frame(FRAME, path) == FRAME
    except TransportError:
        return False


def test_no_agent_is_a_transport_error_that_says_what_to_start(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match=r"agent\.sock: no agent answers .*; start `synthfed client run`"):
        connect(tmp_path / "agent.sock")


def test_the_relay_hands_one_frame_through_and_nothing_else(served: Served) -> None:
    assert relay_frame(FRAME, served.path) == FRAME
    assert served.agent.frames == [FRAME]


LONGEST = HEADER.pack(MAGIC, VERSION, 1, 0, MAX_BODY_BYTES)
QUICK = Pace(fixed_s=0.2, least_bytes_s=2.0**32)


def trickles(connection: socket.socket) -> Iterator[None]:
    """Send the longest frame's header, and then a byte at each step; end when the other end has closed."""
    connection.sendall(LONGEST)
    while True:
        try:
            connection.sendall(b"x")
        except OSError:
            return
        yield
        time.sleep(0.02)


def test_a_peer_that_trickles_is_dropped_and_the_sessions_time_is_looked_at_again(tmp_path: Path) -> None:
    server = Served(tmp_path / "agent.sock", QUICK)
    server.start()
    try:
        with opened(server.path) as slow:
            start_s, steps = time.monotonic(), sum(1 for _ in trickles(slow))
        assert steps > 3
        assert time.monotonic() - start_s < 20 * QUICK.limit_s(len(LONGEST) + MAX_BODY_BYTES)
        looks = server.agent.looks
        until(lambda: server.agent.looks > looks + 1)
        with opened(server.path) as connection:
            assert exchanged(connection) == FRAME
    finally:
        server.stop()
    assert server.agent.frames == [FRAME]
    assert server.ended is None


def test_a_peer_that_trickles_holds_up_neither_a_new_connection_nor_the_end_of_the_agent(tmp_path: Path) -> None:
    server = Served(tmp_path / "agent.sock", QUICK)
    server.start()
    with opened(server.path) as slow:
        trickling = trickles(slow)
        next(trickling)  # before the other dials, which would end this connection as the older one
        feed = threading.Thread(target=lambda: [None for _ in trickling])
        feed.start()
        with opened(server.path) as other:
            other.sendall(FRAME)
            assert read_frame(other) == FRAME
            feed.join(10)
            other.sendall(LONGEST + b"x")
            server.stop()
    assert server.ended is None
    assert not server.path.exists()


def test_a_relay_that_does_not_take_its_answer_is_dropped_in_time(tmp_path: Path) -> None:
    server = Served(tmp_path / "agent.sock", QUICK)
    server.start()
    try:
        with opened(server.path) as deaf:
            deaf.sendall(Frame(1, 7, bytes(2**23)).encode())
            looks = server.agent.looks
            until(lambda: server.agent.looks > looks + 1)
        assert relay_frame(FRAME, server.path) == FRAME
    finally:
        server.stop()


def test_a_long_frame_has_more_time_than_a_short_one() -> None:
    assert Pace(10.0, 2.0**24).limit_s(0) == 10.0
    assert Pace(10.0, 2.0**24).limit_s(2**29) == 42.0


def test_a_frame_that_is_not_whole_in_its_time_is_given_up() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(FRAME[:-1])
        with pytest.raises(TimeoutError):
            read_frame(ours, Pace(0.05, 2.0**32))
        with pytest.raises(TimeoutError, match="too slowly"):
            read_frame(ours, Pace(-1.0, 2.0**32))


def test_the_agents_clock_never_goes_back_and_is_never_behind_the_one_that_stops_in_sleep() -> None:
    before, first, second = time.monotonic(), since_boot_s(), since_boot_s()
    assert second >= first >= before
