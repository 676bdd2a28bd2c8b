"""A stopwatch that tells apart who spent the time on what, and how busy the machine is.

Never counts the harness itself.
"""

import itertools
import os
import re
import resource
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Traffic = Counter[str]
Laps = dict[tuple[str, str], tuple[float, float]]
"""Wall and processor seconds by who spent them on what."""

SERVER, HARNESS = "server", "harness"


class Stopwatch:
    """Wall and processor seconds by who spent them on what; a lap inside a lap stops the outer one."""

    def __init__(self) -> None:
        """Start with no laps."""
        self.laps: Laps = {}
        self._open: list[tuple[str, str]] = []
        self._last = (0.0, 0.0)

    @contextmanager
    def __call__(self, who: str, part: str) -> Iterator[None]:
        """Count what happens inside."""
        self._turn()
        self._open.append((who, part))
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def _turn(self) -> None:
        now = time.perf_counter(), time.process_time()
        if self._open:
            wall, cpu = self.laps.get(self._open[-1], (0.0, 0.0))
            self.laps[self._open[-1]] = wall + now[0] - self._last[0], cpu + now[1] - self._last[1]
        self._last = now


def count(traffic: Traffic, direction: str, size_bytes: int) -> None:
    """Count a message to a site (``down``) or from it (``up``)."""
    traffic[f"messages_{direction}"] += 1
    traffic[f"bytes_{direction}"] += size_bytes


def summary(watches: list[Stopwatch]) -> Row:
    """Return medians over clients and rounds, in milliseconds, and the medians of every part."""
    wholes: dict[str, list[tuple[float, float]]] = {"client": [], SERVER: []}
    parts: dict[str, list[float]] = {}
    for watch in watches:
        laps = sorted((who, part, spent) for (who, part), spent in watch.laps.items() if who != HARNESS)
        for who, group in itertools.groupby(laps, key=lambda lap: lap[0]):
            role, spent = SERVER if who == SERVER else "client", (0.0, 0.0)
            for _, part, (wall, cpu) in group:
                spent = spent[0] + wall, spent[1] + cpu
                parts.setdefault(f"{role}: {part}", []).append(1000 * cpu)
            wholes[role].append(spent)
    row: Row = {}
    for role, spents in wholes.items():
        row[f"{role}_ms"] = 1000 * statistics.median(wall for wall, _ in spents)
        row[f"{role}_cpu_ms"] = 1000 * statistics.median(cpu for _, cpu in spents)
    return {
        **row,
        "samples": len(wholes["client"]),
        "parts_cpu_ms": {k: statistics.median(v) for k, v in parts.items()},
    }


def seconds(action: Callable[[], object]) -> tuple[float, float]:
    """Return wall and processor seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - cpu


def load() -> Row:
    """Return how many processes ran or waited in the last minute, this one among them."""
    return {"load": os.getloadavg()[0]}


def peak_mb() -> float:
    """Return this process's largest resident set so far, in MB.

    Not ``ru_maxrss`` where Linux tells better: a child inherits that from its parent.
    """
    status = Path("/proc/self/status")
    match = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return (int(match[1]) if match else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024
