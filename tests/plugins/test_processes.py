"""Child processes: a group is signalled while its number is surely its own, and never afterwards; ports; signals."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from synthfed.plugins.processes import Child, close_all, held_port, interruptions, is_alive
from synthfed.protocols.errors import ConfigError

LONGEST_S = 30.0
LEAVER = """
import subprocess, sys
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid, flush=True)
raise SystemExit({code})
"""
linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere a look reaps")


def eventually(condition: Callable[[], object]) -> None:
    """Wait in real time until something is so."""
    deadline = time.monotonic() + LONGEST_S
    while not condition():
        assert time.monotonic() < deadline, "this should have happened by now"
        time.sleep(0.01)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[str], Child]]:
    children: list[Child] = []

    def made(script: str) -> Child:
        children.append(Child("child", [sys.executable, "-c", script], tmp_path / f"{len(children)}.log", os.environ))
        return children[-1]

    yield made
    close_all(children)


def leave(make: Callable[[str], Child]) -> tuple[Child, int]:
    """Return a child that has ended and the number of a process that it started and left."""
    child = make(LEAVER.format(code=7))
    child.start()
    eventually(lambda: not child.is_running())
    return child, int(child.last_words())


@linux_only
def test_a_child_that_has_ended_keeps_its_number_until_its_group_was_signalled(make: Callable[[str], Child]) -> None:
    child, left = leave(make)
    assert child.exit_code() == 7
    assert Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    assert is_alive(left)
    close_all([child])
    assert not Path(f"/proc/{child.pid}").exists()
    assert not is_alive(left)
    assert child.exit_code() == 7


@linux_only
def test_a_child_that_is_started_again_first_ends_what_its_earlier_life_left(make: Callable[[str], Child]) -> None:
    child, left = leave(make)
    first = child.pid
    child.start()
    assert not Path(f"/proc/{first}").exists()
    assert not is_alive(left)
    assert child.pid != first


@linux_only
def test_a_number_is_signalled_no_more_once_it_was_given_back(make: Callable[[str], Child]) -> None:
    """What the child left stands for a stranger who was given the group's number."""
    child, stranger = leave(make)
    child.reap()
    try:
        assert child.is_left()
        assert not child.signal(signal.SIGKILL)
        close_all([child], 0.1)
        assert is_alive(stranger)
    finally:
        os.kill(stranger, signal.SIGKILL)


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("raise SystemExit(3)", 3),
        ("import os; os.kill(os.getpid(), 9)", -9),
        ("import os; os.abort()", -signal.SIGABRT),
    ],
)
def test_an_exit_code_is_the_same_before_and_after_the_reaping(
    make: Callable[[str], Child], script: str, code: int
) -> None:
    child = make(script)
    assert (child.exit_code(), child.is_left(), child.signal(signal.SIGTERM)) == (None, False, False)
    child.start()
    eventually(lambda: child.exit_code() is not None)
    assert child.exit_code() == code
    child.reap()
    assert (child.exit_code(), child.is_running()) == (code, False)


@linux_only
def test_a_program_whose_children_the_kernel_reaps_still_sees_their_end(make: Callable[[str], Child]) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        child = make("pass")
        child.start()
        eventually(lambda: not child.is_running())
        close_all([child])
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_port_at_an_address_of_another_machine_is_refused_after_some_trials() -> None:
    elsewhere = "192.0.2.1"  # reserved for documentation
    with (
        pytest.raises(ConfigError, match=r"none of 200 ports .* can be had \(.*\); use an address"),
        held_port(elsewhere),
    ):
        pass


def test_the_end_of_the_terminal_ends_a_program_unless_that_is_ignored() -> None:
    assert signal.SIGHUP in interruptions()
    asked = "from synthfed.plugins.processes import interruptions; print(*map(int, interruptions()))"
    under_nohup = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); {asked}"
    done = subprocess.run([sys.executable, "-c", under_nohup], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(int(each)) for each in (signal.SIGINT, signal.SIGTERM)]
