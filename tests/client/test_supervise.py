"""The supervisor of a site over real, small processes: waits, faults that last, a lost part, a coordinator."""

import os
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from synthfed.client.config import Ceiling, Coordinator, Home, SiteConfig
from synthfed.client.supervise import Watched, connect, keep_alive
from synthfed.plugins.cli import EXIT_CODES
from synthfed.plugins.processes import Child, is_alive
from synthfed.protocols.errors import ConfigError, TransportError
from synthfed.server.certificates import write_certificates

TICK_S = 0.25
LONGEST_S = 60.0  # of a real process on a busy machine
FOREVER = "import time; time.sleep(600)"
PARENT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "the-part"])
time.sleep(600)
"""


def eventually(condition: Callable[[], object]) -> None:
    """Wait in real time until something is so."""
    deadline = time.monotonic() + LONGEST_S
    while not condition():
        assert time.monotonic() < deadline, "this should have happened by now"
        time.sleep(0.01)


class Stage:
    """A clock that goes on only while the supervisor sleeps, and what the supervisor says, with the time."""

    def __init__(self, folder: Path) -> None:
        self.now_s = 0.0
        self.said: list[tuple[float, str]] = []
        self.settle: Callable[[], None] = lambda: None
        self._folder = folder

    def watched(self, script: str, name: str = "agent", **more: object) -> Watched:
        child = Child(name, [sys.executable, "-c", script], self._folder / f"{name}.log", os.environ)
        return Watched(child, **more)  # type: ignore[arg-type]

    def clock(self) -> float:
        return self.now_s

    def sleep(self, _: float) -> None:
        self.settle()
        self.now_s += TICK_S

    def say(self, text: str) -> None:
        self.said.append((self.now_s, text))

    def times(self, text: str) -> list[float]:
        """Return when something that begins with ``text`` was said."""
        return [time_s for time_s, said in self.said if said.startswith(text)]

    def run(self, watched: Sequence[Watched], stop: Callable[[], bool]) -> None:
        keep_alive(watched, stop, self.say, self.clock, self.sleep)

    def run_lives(self, each: Watched, lives_s: Sequence[float]) -> list[float]:
        """Let a child live as long as listed, time after time; return the waits before it came back."""

        def settle() -> None:
            lives = len(self.times("agent started"))
            if each.child.is_running() and self.now_s - each.started_s >= lives_s[lives - 1]:
                each.child.signal(signal.SIGKILL)
                eventually(lambda: not each.child.is_running())

        self.settle = settle
        self.run([each], lambda: len(self.times("agent ended")) == len(lives_s))
        ends = self.times("agent ended")
        return [start - end for end, start in zip(ends, self.times("agent started")[1:], strict=False)]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_the_wait_doubles_from_one_second_to_thirty(stage: Stage) -> None:
    waits_s = stage.run_lives(stage.watched(FOREVER), [0.0] * 8)
    assert waits_s == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_the_wait_is_short_again_after_a_minute_of_life(stage: Stage) -> None:
    lives_s = [0.0, 0.0, 60.0, 60.0 + 2 * TICK_S, 0.0, 0.0]
    assert stage.run_lives(stage.watched(FOREVER), lives_s) == [1.0, 2.0, 4.0, 1.0, 2.0]


def test_an_end_is_told_with_its_code_its_last_line_and_its_log(stage: Stage, tmp_path: Path) -> None:
    each = stage.watched("print('first'); print('last'); raise SystemExit(7)")
    stage.settle = lambda: eventually(lambda: not each.child.is_running())
    stage.run([each], lambda: bool(stage.times("agent ended")))
    assert stage.said[-1][1] == f"agent ended with code 7: last (log: {tmp_path / 'agent.log'})"


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (3, "a/study.toml: is a draft: a site of its roster has no key yet"),
        (4, "a/data.csv: column 'x' has 1 row(s) with a value out of bounds"),
        (5, "the ledger a/ledger.db was changed; restore it"),
        (9, "plugin 'odd' (distribution odd 1): cannot compute 'critic' (RuntimeError: two\nlines)"),
    ],
)
def test_a_fault_that_lasts_ends_both_with_the_code_and_the_sentence_of_the_one(
    stage: Stage, tmp_path: Path, code: int, sentence: str
) -> None:
    (tmp_path / "agent.log").write_text("synthfed: an earlier fault\n", encoding="utf-8")
    script = f"import sys; print('before'); sys.stderr.write({f'synthfed: {sentence}' + chr(10)!r}); sys.exit({code})"
    agent, node = stage.watched(f"import sys; sys.stdout = sys.stderr\n{script}"), stage.watched(FOREVER, "node")
    stage.settle = lambda: eventually(lambda: not agent.child.is_running())
    with pytest.raises(tuple(EXIT_CODES)) as caught:
        stage.run([agent, node], lambda: False)
    assert next(each for kind, each in EXIT_CODES.items() if caught.errisinstance(kind)) == code
    assert str(caught.value) == sentence
    assert stage.times("node started")
    assert node.child.pid is not None
    assert not is_alive(node.child.pid)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells what a process has started")
def test_a_node_that_lost_its_part_is_started_again(stage: Stage) -> None:
    node = stage.watched(PARENT, "node", part="the-part")

    def parts() -> list[int]:
        found = Path(f"/proc/{node.child.pid}/task/{node.child.pid}/children").read_text().split()
        return [int(pid) for pid in found if b"\0the-part\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def lose() -> None:
        os.kill(parts()[0], signal.SIGKILL)
        eventually(lambda: not parts())

    steps = iter([lambda: eventually(parts), lose])  # in between, the supervisor sees it with its part
    stage.settle = lambda: next(steps, lambda: None)()
    stage.run([node], lambda: len(stage.times("node started")) == 2)
    assert [text.split(" (")[0].split(":")[0] for _, text in stage.said] == [
        "node started",
        "node lost its the-part",
        "node ended with code -15",
        "node started",
    ]
    assert not node.child.is_left()


def test_both_are_gone_when_it_is_told_to_stop(stage: Stage) -> None:
    watched = [stage.watched(FOREVER), stage.watched(PARENT, "node")]
    stage.run(watched, lambda: stage.now_s > 1)
    assert len(stage.said) == 2
    assert not any(is_alive(each.child.pid or 0) for each in watched)
    assert not any(each.child.is_left() for each in watched)  # nor anything that they had started


def test_a_node_waits_for_its_coordinator_and_says_so_once(stage: Stage) -> None:
    looks: list[float] = []

    def look() -> None:
        looks.append(stage.now_s)
        if len(looks) <= 3:
            raise TransportError("the coordinator at there:1 does not answer yet; trying again")

    node = stage.watched(FOREVER, "node", look=look)
    stage.run([node], lambda: bool(stage.times("node started")))
    assert looks == [0.0, 1.0, 3.0, 7.0]
    assert [text.split(" (")[0] for _, text in stage.said] == [
        "the coordinator at there:1 does not answer yet; trying again",
        "node started",
    ]


def test_that_the_coordinator_has_gone_is_said_in_place_of_the_nodes_last_line(stage: Stage) -> None:
    def look() -> None:
        if stage.times("node started"):
            raise TransportError("the coordinator at there:1 does not answer yet; trying again")

    node = stage.watched("print('INFO: Finished server process'); raise SystemExit(1)", "node", look=look)
    stage.settle = lambda: eventually(lambda: not node.child.is_running())
    stage.run([node], lambda: stage.now_s > 10)
    assert [text.split(" (")[0] for _, text in stage.said] == [
        "node started",
        "the coordinator at there:1 does not answer yet; trying again",
    ]


def test_a_coordinator_that_is_not_trusted_ends_both(stage: Stage) -> None:
    def look() -> None:
        raise ConfigError("its certificate is not from the authority")

    agent, node = stage.watched(FOREVER), stage.watched(FOREVER, "node", look=look)
    with pytest.raises(ConfigError, match="its certificate is not from the authority"):
        stage.run([agent, node], lambda: False)
    assert node.child.pid is None
    assert not is_alive(agent.child.pid or 0)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    """A port on which TLS is spoken and nothing else said, and the authority of its certificate."""
    folder = tmp_path_factory.mktemp("tls")
    ca = write_certificates(folder, ["127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    done = threading.Event()

    def serve(listener: socket.socket) -> None:
        while not done.is_set():
            try:
                accepted, _ = listener.accept()
            except TimeoutError:
                continue
            accepted.settimeout(LONGEST_S)
            try:
                context.wrap_socket(accepted, server_side=True).close()
            except OSError:
                accepted.close()  # the client did not trust it

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield int(listener.getsockname()[1]), ca
        done.set()
        thread.join()


def settings(port: int) -> SiteConfig:
    coordinator = Coordinator(address=f"127.0.0.1:{port}", ca="ca.crt")
    return SiteConfig(
        format=1, site="a", data="data.csv", ceiling=Ceiling(epsilon=1.0, delta=1e-5), coordinator=coordinator
    )


def test_a_trusted_coordinator_need_only_show_its_certificate(tls: tuple[int, str], tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text(tls[1], encoding="utf-8")
    connect(Home(tmp_path), settings(tls[0])).close()


def test_a_certificate_from_elsewhere_lasts_and_a_silent_port_does_not(tls: tuple[int, str], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "ca.crt").write_text(write_certificates(tmp_path / "other", ["127.0.0.1"]), encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"not from the authority in {tmp_path}/ca\.crt; compare .* by voice, then"):
        connect(Home(tmp_path), settings(tls[0]))
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(TransportError, match="cannot be reached"):
            connect(Home(tmp_path), settings(bound.getsockname()[1]))


@pytest.mark.parametrize("content", [None, "not a certificate"])
def test_an_authority_that_is_of_no_use_lasts(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "ca.crt").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"ca\.crt: .*; put the certificate there"):
        connect(Home(tmp_path), settings(1))
