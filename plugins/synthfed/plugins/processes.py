"""Child processes that never outlive their parent, their environment, and the lock of a home.

Never runs a shell, never leaves a process or a port behind, and never signals a number that may be a stranger's.
"""

import contextlib
import ctypes
import fcntl
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from synthfed.protocols.errors import ConfigError

from .files import owner_only

_PARENT_DEATH: Final = 1  # PR_SET_PDEATHSIG of prctl(2)
GRACE_S: Final = 5.0
"""How long a child has to end by itself; one that has children of its own needs longer than they do."""

_REAPED_S: Final = 1.0
_PORTS: Final = range(12_000, 30_000)  # outside the range from which kernels serve outgoing connections
_PORT_TRIALS: Final = 200
_LIBC: Final = ctypes.CDLL(None) if sys.platform.startswith("linux") else None


def end_with_parent() -> None:
    """Ask the kernel to end this process when its parent ends (Linux; elsewhere nothing happens)."""
    if _LIBC is not None:
        _LIBC.prctl(_PARENT_DEATH, signal.SIGTERM)


def interruptions() -> tuple[signal.Signals, ...]:
    """Return the signals that ask this program to end: Ctrl-C, SIGTERM, and the end of its terminal.

    Not the last one where it is ignored already: ``nohup`` has asked for that.
    """
    is_deaf = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM, *(() if is_deaf else (signal.SIGHUP,)))


def flower_environment(home: Path) -> dict[str, str]:
    """Return the environment of a child: one thread, and for Flower no telemetry and a home of its own.

    Many processes share a machine's cores here, and threads of one would only wait for the others'.
    """
    programs = Path(sys.executable).parent
    return {
        **os.environ,
        "FLWR_HOME": str(home.absolute()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }


def program(name: str) -> str:
    """Return the path of a program that was installed beside this interpreter."""
    return str(Path(sys.executable).parent / name)


def this_program(*arguments: str) -> list[str]:
    """Return the command that runs ``synthfed`` with these arguments under this interpreter."""
    # -P: a module that was planted in the working folder is not imported.
    return [sys.executable, "-P", "-m", "synthfed.plugins.cli", *arguments]


@contextlib.contextmanager
def held_port(host: str = "127.0.0.1") -> Iterator[int]:
    """Yield a port that no other caller is given meanwhile; a program of ours can listen on it.

    Only Linux lets two sockets share a port of which one listens; elsewhere the port was merely free a moment ago.

    Raises:
        ConfigError: no port can be had at that address.
    """
    with _bound(host) as holder:
        port = int(holder.getsockname()[1])
        if sys.platform.startswith("linux"):
            # Only now: before, it would let the bind succeed beside another holder's.
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            holder.close()
        yield port


def _bound(host: str) -> socket.socket:
    """Return a socket that is bound to a random port."""
    reason = ""
    for _ in range(_PORT_TRIALS):
        holder = socket.socket()
        try:
            holder.bind((host, secrets.choice(_PORTS)))
        except OSError as error:
            holder.close()
            reason = error.strerror or type(error).__name__
        else:
            return holder
    raise ConfigError(
        f"none of {_PORT_TRIALS} ports tried from {_PORTS[0]} to {_PORTS[-1]} can be had ({reason}); use an address of "
        "this machine, or end programs that hold those ports",
        where=host,
    )


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that was free a moment ago, for a program that is started again if it has lost it."""
    with held_port(host) as port:
        return port


def is_alive(pid: int) -> bool:
    """Return whether a process of this machine runs; one that ended but was not yet reaped does not."""
    state = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            return state.read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
        except OSError:
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def exclusive(lock: Path, holder: str) -> Iterator[None]:
    """Hold a home's lock file; where another process holds it, or there is no home, ConfigError says so."""
    try:
        file = open(lock, "a", opener=owner_only)  # noqa: SIM115 - paths take no opener; closed below
    except OSError as error:
        raise ConfigError(f"is not a home ({error.strerror}); run `init` first", where=str(lock.parent)) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"another {holder} is using this home; stop it first", where=str(lock.parent)) from None
        yield


class Child:
    """One child process in a process group of its own, its output in a log file.

    The group has the process's number. One that has ended is not reaped before the group was signalled: as long as
    it is not, the kernel gives that number to nobody else (Linux; elsewhere such a group is not signalled).
    """

    def __init__(
        self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str], piped: bytes = b""
    ) -> None:
        """Remember what to run, and what it finds on its standard input whenever it starts: less than a pipe holds."""
        self.name = name
        self.log = log
        self._command = list(command)
        self._environment = dict(environment)
        self._piped = piped
        self._process: subprocess.Popen[bytes] | None = None
        self._file: IO[bytes] | None = None
        self._had_part = False

    @property
    def pid(self) -> int | None:
        """The process's number, None before it was started."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process; only from the main thread, whose end the kernel would take for ours."""
        self.signal(signal.SIGKILL)  # what an earlier one that died had started would disturb this one
        self.reap()
        self._file = open(self.log, "ab", opener=owner_only)  # noqa: SIM115 - closed after the process
        self._had_part = False
        with _uninterrupted(), _pipe(self._piped) as given:  # a process that runs before it is remembered would stay
            self._process = subprocess.Popen(
                self._command,
                stdin=given,
                stdout=self._file,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    def exit_code(self) -> int | None:
        """Return the exit code of a process that has ended, None while it runs; it is not reaped by that."""
        if self._process is None:
            return None
        code: int | None = self._process.returncode  # known once it was reaped
        return _ended(self._process) if code is None else code

    def is_running(self) -> bool:
        """Return whether the process was started and has not ended."""
        return self._process is not None and self.exit_code() is None

    def has_lost(self, part: str) -> bool:
        """Return whether the process runs on after a program that it had started has ended (Linux).

        Args:
            part: the program's name; it must be asked for while it runs to be missed later.
        """
        if not self.is_running():
            return False
        is_there = any(part in _command_line(child) for child in _children(self.pid))
        self._had_part |= is_there
        return self._had_part and not is_there

    def signal(self, number: int) -> bool:
        """Send a signal to the process and everything it started; return whether there was anything.

        Not once it was reaped: its number may then be a stranger's.
        """
        return self._process is not None and self._process.returncode is None and _reaches(self._process.pid, number)

    def is_left(self) -> bool:
        """Return whether the process or anything that it started is there; this only looks, also after the reaping."""
        return self._process is not None and _reaches(self._process.pid, 0)

    def reap(self) -> None:
        """Wait for a process that ends or was killed, and close its log; signal its group before, if it needs one."""
        if self._process is not None:
            self._process.wait()
        self._close_log()

    def last_words(self, lines: int = 5) -> str:
        """Return the end of the log, for an error message."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return " | ".join(line.strip() for line in text.splitlines()[-lines:] if line.strip())

    def _close_log(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


@contextlib.contextmanager
def _pipe(content: bytes) -> Iterator[int]:
    """Yield a descriptor from which a child reads the content and then its end; nobody else inherits it."""
    if not content:
        yield subprocess.DEVNULL
        return
    reader, writer = os.pipe()
    try:
        os.write(writer, content)
        os.close(writer)
        yield reader
    finally:
        os.close(reader)


def close_all(children: Sequence[Child], grace_s: float = GRACE_S) -> None:
    """End all of them and everything they started: politely at first, after the grace surely."""
    for child in children:
        child.signal(signal.SIGTERM)
    _wait_while(lambda: any(child.is_running() for child in children), grace_s)
    for child in children:
        child.signal(signal.SIGKILL)
    for child in children:
        child.reap()
    # What they had started is reaped by another process, which in a container may never do it.
    _wait_while(lambda: any(child.is_left() for child in children), _REAPED_S)


def _ended(process: "subprocess.Popen[bytes]") -> int | None:
    """Return the exit code of a process that has ended, None while it runs; on Linux it stays a zombie."""
    if not sys.platform.startswith("linux"):
        return process.poll()
    try:
        found = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # this program was started so that the kernel reaps its children
        return process.poll()
    if found is None:
        return None
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def _reaches(group: int, number: int) -> bool:
    """Send a signal to a process group and return whether it has a member that may be sent one."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _children(pid: int | None) -> list[str]:
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []


def _command_line(pid: str) -> str:
    """Return a process's program and arguments; nothing of one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _wait_while(condition: Callable[[], bool], longest_s: float) -> None:
    deadline = time.monotonic() + longest_s
    while condition() and time.monotonic() < deadline:
        time.sleep(0.05)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold back an interruption until the end of the block."""
    came: list[int] = []
    numbers = interruptions()
    before = {number: signal.signal(number, lambda received, _: came.append(received)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for received in came:
            signal.raise_signal(received)
