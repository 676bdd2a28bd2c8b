"""A small world of real processes: a coordinator, sites, a demo, and what is left of them afterwards."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

from synthfed.plugins.processes import free_port

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # so that tests can import `tests.e2e.networks`

from tests.e2e.networks import HOST, Networks  # noqa: E402

DEADLINE_S = 240.0


def write_table(path: Path, seed: int, rows: int) -> None:
    draw = random.Random(seed)
    lines = ["patient,age,smoker,sick"]
    for patient in range(rows):
        age, smoker = draw.randint(18, 90), draw.random() < 0.3
        sick = draw.random() < (age / 90) ** 2 * (0.4 + 0.5 * smoker)
        lines.append(f"{patient},{age},{['no', 'yes'][smoker]},{['no', 'yes'][sick]}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


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


@dataclass(frozen=True)
class Process:
    """A process as ``/proc`` shows it; number and start together are never given to another one."""

    pid: int
    start: str
    parent: int = field(compare=False)
    command: str = field(compare=False)
    environment: str = field(compare=False)

    def words(self, folder: Path) -> str:
        """Return command and environment; a site's folder is named by its path or beside ``--home``."""
        return re.sub(r"--home (?!/)", f"--home {folder}/", self.command) + self.environment


def processes() -> Iterator[Process]:
    """Yield every process of this machine that has not ended."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        try:
            environment = (entry / "environ").read_bytes().decode(errors="replace")
        except OSError:  # an agent's, which is closed to its own user
            environment = ""
        if command and stat[0] not in ("Z", "X"):  # one that is ending has none any more
            yield Process(int(entry.name), stat[19], int(stat[1]), command, environment)


@dataclass
class Lab:
    """One coordinator and its sites under a short temporary folder."""

    folder: Path
    port: int
    steps_port: int
    networks: Networks | None = None
    """Where coordinator and sites stand on hosts of their own."""
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def coordinator(self) -> Path:
        return self.folder / "coordinator"

    def command(self, *arguments: str) -> list[str]:
        """Return a command of ours, on the host where it belongs if there are two."""
        command = [sys.executable, "-m", "synthfed.plugins.cli", *arguments]
        if self.networks is None:
            return command
        return [*(self.networks.sites if arguments[0] == "client" else self.networks.coordinator), *command]

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
        host = () if self.networks is None else ("--host", HOST, "--bind", "0.0.0.0")  # noqa: S104 - of a namespace
        self.run("server", "init", *host, "--port", str(self.port), "--steps-port", str(self.steps_port))
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
            "--option",
            "refine=true",
            "--epsilon",
            "4",
            "--units-per-site",
            "1000",
        ]
        self.run("study", "new", *base, *enrolments, *options, "--out", "study.toml")
        for site in sites:
            self.run("client", "approve", "study.toml", "--home", site)

    def serve(self, log: str, *options: str) -> subprocess.Popen[bytes]:
        return self.start(
            log, "server", "run", "study.toml", "--out", "release", "--wait", "180", "-n", "500", *options
        )

    def join(self, site: str) -> subprocess.Popen[bytes]:
        return self.start(f"{site}.log", "client", "run", "--home", site)

    def status(self) -> dict[str, Any]:
        try:
            status: dict[str, Any] = json.loads((self.coordinator / "runs/study/status.json").read_text())
        except (OSError, ValueError):
            return {"step": 0, "phase": ""}
        return status

    def wait_for_run(self) -> None:
        """Wait until the coordinator is about to let nodes in: before that, each would start in vain."""
        wait_for((self.coordinator / "runs/study/status.json").exists, "a run")

    def wait_for_step(self, step: int) -> None:
        wait_for(lambda: self.status()["step"] >= step, f"step {step}; status: {self.status()}")

    def kill(self, program: str = "", site: str = "") -> int:
        """End every process of this lab, or of one site, that runs a program, at once; return how many there were."""
        place = str(self.folder / site) if site else str(self.folder)
        pids = [each.pid for each in processes() if program in each.command and place in each.words(self.folder)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # one may end with another
                os.kill(pid, signal.SIGKILL)
        return len(pids)

    def power_cut(self) -> None:
        """End every process of coordinator and sites at once, those that look after others first."""
        for child in self.children:
            child.kill()
        while self.kill():
            time.sleep(0.05)
        for child in self.children:
            child.wait(timeout=30)

    def pass_a_minute(self, *sites: str) -> None:
        """Let sites' nodes seem unheard of for a minute, after which Flower lets in a killed node's successor."""
        with contextlib.closing(sqlite3.connect(self.coordinator / "flower.db", timeout=30)) as db, db:
            for site in sites:
                line = (self.coordinator / f"nodes/{site}.pub").read_text(encoding="utf-8")
                key = load_ssh_public_key(line.encode()).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
                changed = db.execute("UPDATE node SET online_until = 0 WHERE public_key = ?", (key,))
                assert changed.rowcount == 1, site

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
def networks() -> Iterator[Networks | str]:
    """Two hosts, or why there are none."""
    try:
        made = Networks()
    except (OSError, subprocess.CalledProcessError) as error:
        yield f"this machine makes no network namespaces: {error}"
        return
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def left_over() -> Callable[[str], list[str]]:
    return processes_that_mention


def listening(pid: int, ports: Mapping[str, int]) -> set[int]:
    """Return the ports on which a process listens, of those given by the number of their socket."""
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(OSError):
            found.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
    return {ports[each] for each in found & ports.keys()}


def all_listening() -> dict[str, int]:
    """Return every port of this machine on which someone listens, by the number of the socket."""
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        if Path("/proc/net", table).exists()
        for line in Path("/proc/net", table).read_text().splitlines()[1:]
    ]
    return {row[9]: int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"}


class Demo:
    """A demo that runs, with every process it ever started and every port it ever listened on."""

    def __init__(self, folder: Path, *options: str) -> None:
        folder.mkdir(exist_ok=True)
        self._log = Path(tempfile.mkstemp(prefix="demo-", suffix=".log", dir=folder)[1])
        with self._log.open("wb") as file:
            command = [sys.executable, "-m", "synthfed.plugins.cli", "demo", *options]
            self._process = subprocess.Popen(command, cwd=folder, stdout=file, stderr=file)
        self.home = ""
        self.seen: set[Process] = set()
        self.ports: set[int] = set()

    @property
    def output(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def look(self) -> list[Process]:
        """Return its processes of this moment: descendants, and whoever names its folder."""
        everything, ours = list(processes()), {self._process.pid}
        before = 0
        while before < len(ours):
            before = len(ours)
            ours |= {
                each.pid
                for each in everything
                if each.parent in ours or (self.home and self.home in f"{each.command} {each.environment}")
            }
        now = [each for each in everything if each.pid in ours]
        if not self.home:
            names = [re.search(r"--home (/tmp/synthfed-demo-[^/]+)/", each.command) for each in now]
            self.home = next((name[1] for name in names if name), "")
        ports = all_listening()
        self.seen = set(now) | self.seen  # the command as it is now: a node starts under another one
        self.ports |= {port for each in now for port in listening(each.pid, ports)}
        return now

    def wait_for(self, program: str) -> Process:
        """Return one of its processes whose command matches, as soon as there is one."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline and self._process.poll() is None:
            found = [each for each in self.look() if re.search(program, each.command)]
            if found:
                return found[0]
            time.sleep(0.1)
        raise AssertionError(f"no {program}: {self.output}")

    def wait_for_output(self, text: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while text not in self.output:
            assert time.monotonic() < deadline and self._process.poll() is None, self.output
            self.look()
            time.sleep(0.2)

    def kill(self, program: str) -> None:
        os.kill(self.wait_for(program).pid, signal.SIGKILL)

    def interrupt(self, number: int) -> None:
        self._process.send_signal(number)

    def starts(self, program: str) -> int:
        """Return how many processes with such a command there have been.

        One that such a process has forked has its command, too, until it begins another program.
        """
        found = {each.pid: each.parent for each in self.seen if re.search(program, each.command)}
        return sum(parent not in found for parent in found.values())

    def end(self, *beside: "Demo") -> int:
        """Wait for its end and return its exit code; nothing of it may be left at that moment."""
        deadline = time.monotonic() + 2 * DEADLINE_S
        while self._process.poll() is None:
            assert time.monotonic() < deadline, self.output
            for demo in (self, *beside):
                demo.look()
            time.sleep(0.2)
        left = [each for each in processes() if each in self.seen or (self.home and self.home in each.command)]
        assert not left, f"{[each.command for each in left]}\n{self.output}"
        assert not self.home or not Path(self.home).exists()
        for port in self.ports:
            with socket.create_server(("127.0.0.1", port)):
                pass
        assert "Traceback" not in self.output
        return self._process.returncode

    def close(self) -> None:
        """End what a failed test left."""
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=30)
        for each in processes():
            if each in self.seen:
                os.kill(each.pid, signal.SIGKILL)
        self._process.wait(timeout=30)


@pytest.fixture
def start_demo(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    with contextlib.ExitStack() as stack:

        def start(*options: str) -> Demo:
            demo = Demo(tmp_path, *options)
            stack.callback(demo.close)
            return demo

        yield start
