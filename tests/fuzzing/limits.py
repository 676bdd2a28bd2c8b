"""What one case, and a whole run, may use: processor time, time on the clock, memory."""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

SLOWEST_S: Final = 1.0
"""Of processor time, so that a busy machine fails nobody; ten times as long on the clock, for what waits."""
MEMORY_BYTES: Final = 768 * 2**20
"""More than this much address space beyond the start is a MemoryError: one largest frame of 512 MiB and some."""
RESIDENT_BYTES: Final = 640 * 2**20
"""By which the peak of resident memory may grow; the largest frame's buffer is cleared when it is made."""


class TooSlow(BaseException):
    """A case ran into its limit; not an Exception, so that no decoder takes it for one of its own."""


@contextmanager
def signals() -> Iterator[None]:
    """Raise TooSlow inside where a case's clock, which `case_time` starts, runs out."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TooSlow

    before = {number: signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def case_time() -> Iterator[None]:
    """Start the clocks of one case, and stop them."""
    signal.setitimer(signal.ITIMER_PROF, SLOWEST_S)
    signal.setitimer(signal.ITIMER_REAL, 10 * SLOWEST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def limit_memory() -> None:
    """Let this process have so much address space beyond what it has now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def peak_bytes() -> int:
    """Return the most resident memory that this process has had."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
