"""Child processes that never outlive their parent, their environment, and the lock of a home.

Never runs a shell, and never leaves a process or a port behind.
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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from synthfed.protocols.errors import ConfigError

_PARENT_DEATH: Final = 1  # PR_SET_PDEATHSIG of prctl(2)
_GRACE_S: Final = 5.0
_LIBC: Final = ctypes.CDLL(None) if sys.platform.startswith("linux") else None


def end_with_parent() -> None:
    """Ask the kernel to end this process when its parent ends (Linux; elsewhere nothing happens)."""
    if _LIBC is not None:
        _LIBC.prctl(_PARENT_DEATH, signal.SIGTERM)


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
    return [sys.executable, "-m", "synthfed.plugins.cli", *arguments]


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that was free a moment ago.

    Drawn outside the range from which the kernel serves outgoing connections, so that nothing
    but another listener is likely to take it before it is used.
    """
    while True:
        port = 12_000 + secrets.randbelow(18_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
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
        file = lock.open("a")
    except OSError as error:
        raise ConfigError(f"is not a home ({error.strerror}); run `init` first", where=str(lock.parent)) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"another {holder} is using this home; stop it first", where=str(lock.parent)) from None
        yield


class Child:
    """One child process in a process group of its own, its output in a log file."""

    def __init__(self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        """Remember what to run."""
        self.name = name
        self.log = log
        self._command = list(command)
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._file: IO[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process's number, None before it was started."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process; only from the main thread, whose end the kernel would take for ours."""
        self._close_log()
        self._file = self.log.open("ab")
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            env=self._environment,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )

    def exit_code(self) -> int | None:
        """Return the exit code of a process that has ended, None while it runs."""
        return self._process.poll() if self._process else None

    def is_running(self) -> bool:
        """Return whether the process was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal to the process and everything it started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def close(self) -> None:
        """End the process and everything it started: politely, then surely."""
        self.signal(signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_S
        while self.is_running() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.signal(signal.SIGKILL)
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


def close_all(children: Sequence[Child]) -> None:
    """End all of them: every one is told before the first is waited for."""
    for child in children:
        child.signal(signal.SIGTERM)
    for child in children:
        child.close()
