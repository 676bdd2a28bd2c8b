"""What code does beside returning: files and sockets it opens, processes and threads it starts, what it says.

Never stops the code it watches; it only notes events, and only those of the thread and block that asked.
"""

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

_ACTS: Final = frozenset(
    (
        "ctypes.dlopen", "fcntl.flock", "mmap.__new__", "os.chdir", "os.chmod", "os.exec",
        "os.fork", "os.forkpty", "os.kill", "os.link", "os.mkdir", "os.posix_spawn", "os.putenv", "os.remove",
        "os.rename", "os.rmdir", "os.spawn", "os.symlink", "os.system", "os.truncate", "os.unsetenv", "socket.bind",
        "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendmsg", "socket.sendto",
        "sqlite3.connect", "subprocess.Popen", "syslog.syslog",
    )
)  # fmt: skip
_CODE: Final = (".py", ".pyc", ".so", ".pth", ".zip")
_MACHINE: Final = ("/proc/self/maps", "/proc/cpuinfo", "/sys/devices/system/cpu/")
"""Where libraries of numerics learn what processor they run on and which of them are loaded."""
_NOTES: ContextVar[list[str] | None] = ContextVar("_NOTES", default=None)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    notes = _NOTES.get()
    if notes is None:
        return
    if event in _ACTS:
        notes.append(event)
    elif event == "open":
        path, _, flags = (*arguments, None, None)[:3]
        is_written = isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if is_written or not (str(path).endswith(_CODE) or str(path).startswith(_MACHINE)):
            notes.append(f"an open of {Path(os.fsdecode(path)).name if isinstance(path, str | bytes) else path!r}")


sys.addaudithook(_hook)


@contextlib.contextmanager
def noting_acts() -> Iterator[list[str]]:
    """Give a list that fills with what code in the block opens; nothing of what it opens is stopped."""
    notes: list[str] = []
    token = _NOTES.set(notes)
    try:
        yield notes
    finally:
        _NOTES.reset(token)


class _Words(logging.Handler):
    """Keeps what is logged anywhere in the process."""

    def __init__(self) -> None:
        super().__init__(level=logging.NOTSET)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Note a record's logger; its text may hold a value."""
        self.said.append(f"a log record of {record.name!r}")


@contextlib.contextmanager
def noting_words() -> Iterator[list[str]]:
    """Give a list that holds, when the block ends, where it printed, logged or warned; never what it said."""
    said: list[str] = []
    words, out = _Words(), io.StringIO()
    logging.getLogger().addHandler(words)
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(out),
            warnings.catch_warnings(record=True) as warned,
        ):
            warnings.simplefilter("always")
            yield said
    finally:
        logging.getLogger().removeHandler(words)
        said += words.said + (["standard output or error"] if out.getvalue() else [])
        said += [f"a warning of {each.category.__name__}" for each in warned]
