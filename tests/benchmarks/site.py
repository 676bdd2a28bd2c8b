"""Compute per step at a site, and peak memory of agent and coordinator, on the demo study.

Prints a table and writes JSON; it is no test. Never compares runs of different machines.

    python tests/benchmarks/site.py --out site.json
"""

import argparse
import json
import os
import platform
import re
import statistics
import tempfile
import threading
import time
from pathlib import Path

import torch
from rich.console import Console

from synthfed.client.local_steps import seconds_per_round
from synthfed.plugins.pinning import pin
from synthfed.protocols.cohort import Site
from synthfed.server.demo import demo_study, run_demo
from synthfed.server.store import Status

PROGRAMS = {
    "agent": "client agent",
    "coordinator": "flwr-serverapp",
    "relay": "flwr-clientapp",
    "node": "flower-supernode",
}


def peaks_mb() -> dict[str, float]:
    """Return the largest resident set of each kind of process that runs now, in MB."""
    found: dict[str, float] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            match = re.search(r"VmHWM:\s+(\d+) kB", (entry / "status").read_text())
        except OSError:
            continue
        for name, program in PROGRAMS.items():
            if program in line and match:
                found[name] = max(found.get(name, 0.0), int(match[1]) / 1024)
    return found


def step_times_ms() -> dict[str, float]:
    """Return the median time of one step of every kind on one thread, in milliseconds."""
    torch.set_num_threads(1)
    pinned = pin(demo_study([Site(id=f"site-{number}") for number in range(1, 7)], 5.0, 200))
    times = {}
    for kind in pinned.policy.plan.kinds:
        times[kind.sum.name] = statistics.median(1000 * seconds_per_round(pinned, kind) for _ in range(9))
    return times


def main() -> None:
    """Time the steps, then run the demo and watch its processes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("site.json"))
    out = parser.parse_args().out
    load = os.getloadavg()[0]
    steps = step_times_ms()
    peaks: dict[str, float] = {}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            for name, value in peaks_mb().items():
                peaks[name] = max(peaks.get(name, 0.0), value)

    watcher = threading.Thread(target=watch)
    watcher.start()
    first_step: list[float] = []
    start = time.monotonic()

    def see(status: Status) -> None:
        if status.step and not first_step:
            first_step.append(time.monotonic() - start)

    with tempfile.TemporaryDirectory() as folder:
        run_demo(Path(folder) / "release", sites=6, epsilon=5.0, steps=200, seed=0, console=Console(), watch=see)
    seconds = time.monotonic() - start
    done.set()
    watcher.join()
    machine = {
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "load_before": load,
    }
    result = {"step_ms": steps, "peak_mb": peaks, "demo_s": seconds, "first_step_s": first_step[0], "machine": machine}
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
