"""A small world of real processes: a coordinator, sites, and what is left of them afterwards."""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DEADLINE_S = 240.0


def write_table(path: Path, seed: int, rows: int) -> None:
    draw = random.Random(seed)
    lines = ["patient,age,smoker,sick"]
    for patient in range(rows):
        age, smoker = draw.randint(18, 90), draw.random() < 0.3
        sick = draw.random() < (age / 90) ** 2 * (0.4 + 0.5 * smoker)
        lines.append(f"{patient},{age},{['no', 'yes'][smoker]},{['no', 'yes'][sick]}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def free_port() -> int:
    while True:
        port = random.randint(12_000, 29_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited too long for: {what}"
        time.sleep(0.1)


def processes_that_mention(text: str) -> list[str]:
    """Return the command lines of all running processes that name a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line and entry.parent.name != str(os.getpid()):
            found.append(line)
    return found


@dataclass
class Lab:
    """One coordinator and its sites under a short temporary folder."""

    folder: Path
    port: int
    steps_port: int
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def coordinator(self) -> Path:
        return self.folder / "coordinator"

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "synthfed.plugins.cli", *arguments]

    def run(self, *arguments: str, expect: int = 0) -> str:
        done = subprocess.run(
            self.command(*arguments), cwd=self.folder, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
        assert done.returncode == expect, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def start(self, log: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("wb") as file:
            child = subprocess.Popen(self.command(*arguments), cwd=self.folder, stdout=file, stderr=file)
        self.children.append(child)
        return child

    def make(self, sites: tuple[str, ...], *options: str) -> None:
        """Go the long way up to a study in every site's home."""
        self.run("server", "init", "--port", str(self.port), "--steps-port", str(self.steps_port))
        write_table(self.folder / "dummy.csv", 0, 3000)
        enrolments: list[str] = []
        for number, site in enumerate(sites):
            write_table(self.folder / f"{site}.csv", 1 + number, 900)
            invitation = str(self.coordinator / "invitation.json")
            self.run(
                "client", "init", "--home", site, "--site", site, "--invitation", invitation, "--data", f"../{site}.csv"
            )
            self.run("server", "enroll", f"{site}/enrolment.json")
            enrolments += ["--enrolment", f"{site}/enrolment.json"]
        base = [
            "--from",
            "dummy.csv",
            "--target",
            "sick",
            "--unit",
            "patient",
            "--epsilon",
            "4",
            "--units-per-site",
            "1000",
        ]
        self.run("study", "new", *base, *enrolments, *options, "--out", "study.toml")
        for site in sites:
            shutil.copy(self.folder / "study.toml", self.folder / site / "study.toml")

    def serve(self, log: str, *options: str) -> subprocess.Popen[bytes]:
        return self.start(log, "server", "run", "study.toml", "--out", "release", "--wait", "90", "-n", "500", *options)

    def join(self, site: str) -> subprocess.Popen[bytes]:
        return self.start(f"{site}.log", "client", "run", "--home", site)

    def status(self) -> dict[str, Any]:
        try:
            status: dict[str, Any] = json.loads((self.coordinator / "runs/study/status.json").read_text())
        except (OSError, ValueError):
            return {"step": 0, "phase": ""}
        return status

    def wait_for_step(self, step: int) -> None:
        wait_for(lambda: self.status()["step"] >= step, f"step {step}; status: {self.status()}")

    def kill(self, program: str) -> None:
        """Kill -9 every process of this lab that runs a program."""
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if program in line and self._is_ours(int(entry.parent.name), line):
                os.kill(int(entry.parent.name), signal.SIGKILL)

    def _is_ours(self, pid: int, line: str) -> bool:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
        except OSError:
            return False
        return str(self.folder) in line or str(self.folder) in environment

    def close(self) -> None:
        for child in self.children:
            child.terminate()
        for child in self.children:
            child.wait(timeout=30)

    def text(self, name: str) -> str:
        return re.sub(r"\s+", " ", (self.folder / name).read_text(encoding="utf-8", errors="replace"))


@pytest.fixture
def lab() -> Iterator[Lab]:
    folder = Path(tempfile.mkdtemp(prefix="synthfed-e2e-", dir="/tmp"))
    made = Lab(folder, free_port(), free_port())
    try:
        yield made
        made.close()
        assert not processes_that_mention(str(folder))
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def left_over() -> Callable[[str], list[str]]:
    return processes_that_mention
