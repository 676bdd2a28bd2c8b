"""The step service over real TLS streams on loopback: real relays in threads, agents on real Unix sockets."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from synthfed.client.channel import Reply, serve
from synthfed.client.relay import relay_session
from synthfed.protocols.errors import ConfigError, RemoteProtocolError, TransportError
from synthfed.protocols.wire import Frame
from synthfed.server.certificates import write_certificates
from synthfed.server.stream import SessionLink

SITES = frozenset({"clinic", "praxis"})
WAIT_S = 15.0
LONG_S = 60.0

Answer = Callable[[bytes], bytes]


class FunctionAgent:
    """Answers every frame by a function of it, at once."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def answer(self, frame: bytes) -> Reply:
        return Reply(self._answer(frame), time.monotonic())

    def expire(self, now_s: float) -> None:
        """Nothing is kept."""


class Loopback:
    """A coordinator's step service, and sites that dial it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tls").mkdir()
        self.ca = write_certificates(folder / "tls", ["127.0.0.1"]).encode()
        certificate, key = ((folder / "tls" / name).read_bytes() for name in ("server.crt", "server.key"))
        self.link = SessionLink("127.0.0.1:0", certificate, key, SITES)
        self._stop = threading.Event()
        self._agents: list[threading.Thread] = []
        self._relays = ThreadPoolExecutor(8, thread_name_prefix="relay")

    def agent(self, site: str, answer: Answer = lambda frame: frame) -> Path:
        """Start a site's agent and return its socket."""
        path = self.folder / f"{site}.sock"
        path.unlink(missing_ok=True)
        thread = threading.Thread(target=serve, args=(FunctionAgent(answer), path, self._stop.is_set, time.monotonic))
        thread.start()
        self._agents.append(thread)
        wait_for(lambda: listens(path))  # the file is there a moment before anyone listens
        return path

    def dying_agent(self, site: str) -> Path:
        """Start an agent that ends, and with it its connection, when it gets its first frame."""
        path = self.folder / f"{site}.sock"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()

        def die() -> None:
            with listener:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)

        thread = threading.Thread(target=die)
        thread.start()
        self._agents.append(thread)
        return path

    def dial(self, site: str, agent: Path, token: str | None = None, ca: bytes | None = None) -> "Future[str]":
        """Start a site's relay; the result is how it ended."""
        token = self.link.admit() if token is None else token
        address = f"127.0.0.1:{self.link.port}"
        return self._relays.submit(relay_session, address, self.ca if ca is None else ca, token, site, agent)

    def join(self, site: str, answer: Answer = lambda frame: frame) -> "Future[str]":
        """Start a site's agent and relay, and wait until the coordinator sees it."""
        relay = self.dial(site, self.agent(site, answer))
        wait_for(lambda: site in self.link.connected())
        return relay

    def close(self) -> None:
        self.link.close()
        self._stop.set()
        self._relays.shutdown()
        for thread in self._agents:
            thread.join()


@pytest.fixture
def loopback(tmp_path: Path) -> Iterator[Loopback]:
    made = Loopback(tmp_path)
    yield made
    made.close()


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def wait_for(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_true():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


def frame(sequence: int, body: bytes = b"") -> bytes:
    return Frame(7, sequence, body).encode()


def test_frames_reach_every_site_and_its_answers_come_back(loopback: Loopback) -> None:
    relays = [loopback.join(site) for site in sorted(SITES)]
    assert loopback.link.connected() == SITES
    for sequence in range(1, 30):
        frames = {site: frame(sequence, f"{site} {sequence}".encode()) for site in SITES}
        loopback.link.post(frames, sequence)
        assert dict(loopback.link.collect(WAIT_S)) == frames
    loopback.link.close()
    assert [relay.result(WAIT_S) for relay in relays] == ["ended", "ended"]


def test_a_frame_larger_than_grpcs_own_limit_passes(loopback: Loopback) -> None:
    loopback.join("clinic")
    large = frame(1, bytes(range(256)) * 40_000)  # 10 MB; gRPC's default limit is 4
    loopback.link.post({"clinic": large}, 1)
    assert dict(loopback.link.collect(WAIT_S)) == {"clinic": large}


def test_collect_does_not_wait_for_sites_that_were_not_asked(loopback: Loopback) -> None:
    for site in SITES:
        loopback.join(site)
    start = time.monotonic()
    loopback.link.post({"clinic": frame(1)}, 1)
    assert dict(loopback.link.collect(LONG_S)) == {"clinic": frame(1)}
    loopback.link.post({"stranger": frame(2)}, 2)
    assert dict(loopback.link.collect(LONG_S)) == {}
    assert time.monotonic() - start < WAIT_S


def test_a_relay_that_trusts_another_authority_sends_nothing(loopback: Loopback, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = write_certificates(tmp_path / "other", ["127.0.0.1"]).encode()
    relay = loopback.dial("clinic", loopback.agent("clinic"), ca=other)
    assert relay.result(LONG_S) == "stream-unavailable"
    assert loopback.link.connected() == frozenset()


@pytest.mark.parametrize("token", ["", "0" * 32, "wrong"])
def test_a_wrong_token_is_refused(loopback: Loopback, token: str) -> None:
    loopback.link.admit()
    relay = loopback.dial("clinic", loopback.agent("clinic"), token)
    assert relay.result(LONG_S) == "stream-permission_denied"
    assert loopback.link.connected() == frozenset()


def test_a_token_admits_one_stream_only(loopback: Loopback) -> None:
    token, clinic = loopback.link.admit(), loopback.agent("clinic")
    loopback.dial("clinic", clinic, token)
    wait_for(lambda: "clinic" in loopback.link.connected())
    assert loopback.dial("praxis", loopback.agent("praxis"), token).result(LONG_S) == "stream-permission_denied"
    assert loopback.link.connected() == {"clinic"}


def test_a_revoked_token_is_worthless(loopback: Loopback) -> None:
    token = loopback.link.admit()
    loopback.link.revoke(token)
    loopback.link.revoke(token)
    relay = loopback.dial("clinic", loopback.agent("clinic"), token)
    assert relay.result(LONG_S) == "stream-permission_denied"


def test_tokens_are_long_and_never_repeat(loopback: Loopback) -> None:
    tokens = {loopback.link.admit() for _ in range(100)}
    assert len(tokens) == 100
    assert {len(bytes.fromhex(token)) for token in tokens} == {16}


@pytest.mark.parametrize("site", ["stranger", "", "Clinic"])
def test_a_site_outside_the_study_is_refused_even_with_a_token(loopback: Loopback, site: str) -> None:
    relay = loopback.dial(site, loopback.agent("agent"))
    assert relay.result(LONG_S) == "stream-permission_denied"
    assert loopback.link.connected() == frozenset()


def test_a_refused_site_does_not_use_up_the_token(loopback: Loopback) -> None:
    token = loopback.link.admit()
    relay = loopback.dial("stranger", loopback.agent("stranger"), token)
    assert relay.result(LONG_S) == "stream-permission_denied"
    loopback.dial("clinic", loopback.agent("clinic"), token)
    wait_for(lambda: "clinic" in loopback.link.connected())


def test_a_late_reply_is_dropped_by_its_sequence_number(loopback: Loopback) -> None:
    go_on = threading.Event()

    def slow(received: bytes) -> bytes:
        if received == frame(1, b"slow"):
            go_on.wait(WAIT_S)
        return received

    loopback.join("clinic", slow)
    loopback.link.post({"clinic": frame(1, b"slow")}, 1)
    assert dict(loopback.link.collect(0.2)) == {}
    loopback.link.post({"clinic": frame(2, b"quick")}, 2)
    go_on.set()
    assert dict(loopback.link.collect(WAIT_S)) == {"clinic": frame(2, b"quick")}
    loopback.link.post({"clinic": frame(3)}, 3)
    assert dict(loopback.link.collect(WAIT_S)) == {"clinic": frame(3)}


def test_a_reply_is_handed_over_while_others_are_waited_for_and_work_on_it_costs_them_no_time(
    loopback: Loopback,
) -> None:
    go_on = threading.Event()

    def slow(received: bytes) -> bytes:
        go_on.wait(WAIT_S)
        return received

    loopback.join("clinic")
    loopback.join("praxis", slow)
    loopback.link.post({"clinic": frame(1), "praxis": frame(1)}, 1)
    replies = loopback.link.collect(1.0)
    assert next(replies) == ("clinic", frame(1))
    time.sleep(1.2)
    go_on.set()
    assert list(replies) == [("praxis", frame(1))]


def test_a_second_reply_to_one_frame_is_dropped(loopback: Loopback) -> None:
    loopback.join("clinic")
    loopback.join("praxis")
    loopback.link.post({"clinic": frame(1), "praxis": frame(1)}, 1)
    loopback.link._inbox.put(("clinic", frame(1, b"first")))
    loopback.link._inbox.put(("clinic", frame(1, b"second")))
    replies = list(loopback.link.collect(WAIT_S))
    assert sorted(site for site, _ in replies) == ["clinic", "praxis"]


def test_a_reply_with_another_number_is_none(loopback: Loopback) -> None:
    loopback.join("clinic", lambda _: frame(99))
    loopback.link.post({"clinic": frame(1)}, 1)
    assert dict(loopback.link.collect(0.3)) == {}


def test_a_lost_stream_is_noticed_without_waiting_for_the_timeout(loopback: Loopback) -> None:
    loopback.join("clinic")
    relay = loopback.dial("praxis", loopback.dying_agent("praxis"))
    wait_for(lambda: loopback.link.connected() == SITES)
    start = time.monotonic()
    loopback.link.post({"clinic": frame(1), "praxis": frame(1)}, 1)
    assert dict(loopback.link.collect(LONG_S)) == {"clinic": frame(1)}
    assert time.monotonic() - start < WAIT_S
    assert relay.result(WAIT_S) == "agent-closed"
    assert loopback.link.connected() == {"clinic"}


def test_a_site_that_left_can_come_back_and_is_asked_again(loopback: Loopback) -> None:
    loopback.dial("clinic", loopback.dying_agent("clinic"))
    wait_for(lambda: "clinic" in loopback.link.connected())
    loopback.link.post({"clinic": frame(1)}, 1)
    assert dict(loopback.link.collect(LONG_S)) == {}
    wait_for(lambda: not loopback.link.connected())
    loopback.join("clinic")
    loopback.link.post({"clinic": frame(2)}, 2)
    assert dict(loopback.link.collect(WAIT_S)) == {"clinic": frame(2)}


def test_a_newer_stream_of_a_site_replaces_its_older_one(loopback: Loopback) -> None:
    older = loopback.join("clinic")
    newer = loopback.dial("clinic", loopback.agent("other"))
    assert older.result(WAIT_S) == "ended"
    assert loopback.link.connected() == {"clinic"}
    loopback.link.post({"clinic": frame(1)}, 1)
    assert dict(loopback.link.collect(WAIT_S)) == {"clinic": frame(1)}
    assert not newer.done()


def test_an_agent_that_sends_no_frame_ends_the_relay_with_an_error(loopback: Loopback) -> None:
    relay = loopback.join("clinic", lambda _: b"HTTP/1.1 200 OK\r\n\r\n")
    loopback.link.post({"clinic": frame(1)}, 1)
    assert dict(loopback.link.collect(LONG_S)) == {}
    with pytest.raises(RemoteProtocolError, match="not a synthfed frame"):
        relay.result(WAIT_S)


def test_a_relay_without_an_agent_is_a_transport_error(loopback: Loopback) -> None:
    with pytest.raises(TransportError, match="no agent answers"):
        loopback.dial("clinic", loopback.folder / "nothing.sock").result(WAIT_S)


def test_closing_ends_every_relay_and_frees_the_port(loopback: Loopback) -> None:
    relays = [loopback.join(site) for site in SITES]
    loopback.link.close()
    assert [relay.result(WAIT_S) for relay in relays] == ["ended", "ended"]
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", loopback.link.port))


def test_closing_twice_and_with_nobody_connected_does_no_harm(loopback: Loopback) -> None:
    loopback.link.close()
    loopback.link.close()
    assert loopback.link.connected() == frozenset()


def test_a_port_in_use_is_a_configuration_error(loopback: Loopback) -> None:
    certificate, key = ((loopback.folder / "tls" / name).read_bytes() for name in ("server.crt", "server.key"))
    with pytest.raises(ConfigError, match=r"steps_port: .* another program may use the port"):
        SessionLink(f"127.0.0.1:{loopback.link.port}", certificate, key, SITES)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ConfigError, match="another program may use the port"):
            SessionLink(f"127.0.0.1:{other.getsockname()[1]}", certificate, key, SITES)
