"""What a piece of work takes: seconds, processor time, peak memory; and on which machine it was measured.

Never names a host, a user or a path.
"""

import contextlib
import gc
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from .results import Place

_DISTRIBUTIONS: Final = ("synthfed", "torch", "opacus", "numpy", "scikit-learn")
_RESET: Final = Path("/proc/self/clear_refs")  # Linux: a 5 sets the peak back to what is resident now
_STATUS: Final = Path("/proc/self/status")
_BYTES_IN_MIB: Final = 2**20


@dataclass(slots=True)
class Meter:
    """What the work inside `metering` took; complete when it is left."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_mib: float = 0.0


@contextlib.contextmanager
def metering() -> Iterator[Meter]:
    """Measure what happens inside, in this process."""
    gc.collect()
    with contextlib.suppress(OSError):  # elsewhere, or not allowed: then the peak is that of the process so far
        _RESET.write_text("5", encoding="ascii")
    meter, start, cpu_start = Meter(), time.monotonic(), time.process_time()
    yield meter
    meter.seconds, meter.cpu_seconds = time.monotonic() - start, time.process_time() - cpu_start
    meter.peak_mib = _peak_mib()


def _peak_mib() -> float:
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024  # of the kernel's figure, in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _BYTES_IN_MIB


def this_place() -> Place:
    """Return the machine's kind and size and the versions of the software."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    machine = (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB, "
        f"Python {platform.python_version()}"
    )
    return Place(machine=machine, versions={name: metadata.version(name) for name in _DISTRIBUTIONS})
