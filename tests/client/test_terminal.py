"""`client run` in a terminal that closes: the real command with a real agent, under a real pseudo-terminal."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from tests.client.homes import make_home

from synthfed.client.config import Home
from synthfed.client.keys.identity import identity_content, load_identity, rewrite_identity
from synthfed.plugins.processes import is_alive
from synthfed.server.certificates import write_certificates

LONGEST_S = 60.0
WORD = b"correct horse"

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells what a process has started"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home whose coordinator does not listen: the agent is started and the node is not."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
    return make_home(tmp_path, address, write_certificates(tmp_path, ["127.0.0.1"]))


def eventually(condition: Callable[[], object]) -> None:
    """Wait in real time until something is so."""
    deadline = time.monotonic() + LONGEST_S
    while not condition():
        assert time.monotonic() < deadline, "this should have happened by now"
        time.sleep(0.05)


def run_in_a_terminal(
    home: Home, prepare: Callable[[], object] = lambda: None
) -> tuple["subprocess.Popen[bytes]", int]:
    """Start `client run` as the leader of a new terminal's session; return it and our end of the terminal."""
    ours, theirs = os.openpty()

    def take() -> None:
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
        prepare()

    command = [sys.executable, "-m", "synthfed.plugins.cli", "client", "run", "--home", str(home.path)]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=take
    )
    os.close(theirs)
    return process, ours


def agents(process: "subprocess.Popen[bytes]") -> list[int]:
    """Return the agents that `client run` has started."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in found if b"\0agent\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_closing_the_terminal_ends_client_run_in_order_and_its_agent_before_it(home: Home) -> None:
    process, terminal = run_in_a_terminal(home)
    try:
        said = b""
        while b"trying again" not in said:  # of the coordinator: from now on there is nothing to say
            said += os.read(terminal, 4096)
        (agent,) = agents(process)
        os.close(terminal)
        assert process.wait(LONGEST_S) == 0
        assert not is_alive(agent)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()


def test_client_run_under_nohup_outlives_its_terminal_and_ends_when_it_is_told_to(home: Home, tmp_path: Path) -> None:
    def nohup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with closing(os.fdopen(os.open(tmp_path / "nohup.out", os.O_WRONLY | os.O_CREAT), "wb")) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)

    process, terminal = run_in_a_terminal(home, nohup)
    try:
        eventually(lambda: agents(process))
        (agent,) = agents(process)
        os.close(terminal)
        time.sleep(1.0)
        assert process.poll() is None
        assert is_alive(agent)
        process.send_signal(signal.SIGTERM)
        assert process.wait(LONGEST_S) == 0
        assert not is_alive(agent)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()


def test_client_run_asks_for_the_passphrase_once_and_its_agent_gets_it_in_no_command_or_environment(home: Home) -> None:
    identity = load_identity(home.identity)
    rewrite_identity(home.identity, identity, identity_content(identity, WORD), WORD)
    for typed, code in ((b"wrong", 3), (WORD, 0)):
        process, terminal = run_in_a_terminal(home)
        try:
            asked = until(terminal, b"identity.key: ")
            os.write(terminal, typed + b"\n")
            if code:
                assert b"Traceback" not in until(terminal, b"the passphrase is wrong, or the file was changed")
            else:
                said = asked + until(terminal, b"trying again")
                assert said.count(b"Passphrase") == 1
                assert WORD not in said
                eventually(lambda: "ready: study" in home.agent_log.read_text(encoding="utf-8"))
                (agent,) = agents(process)
                for what in ("cmdline", "environ"):
                    assert WORD not in Path(f"/proc/{agent}/{what}").read_bytes()
                process.send_signal(signal.SIGTERM)
            assert process.wait(LONGEST_S) == code
        finally:
            os.close(terminal)
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()


def until(terminal: int, awaited: bytes) -> bytes:
    """Return what a terminal shows up to where something stands."""
    said = b""
    while awaited not in said:
        said += os.read(terminal, 4096)
    return said
