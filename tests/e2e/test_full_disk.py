"""Ledger, log and run on a file system that is really full: what is said, what stands, and how it goes on.

Each test is one process with a small disk of its own, which ends with it.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_MOUNT = 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'

DISK = """
import contextlib, subprocess, sys
from pathlib import Path

disk = Path(sys.argv[1])
ballast = disk / "ballast"

def fill():
    size = 2**16
    with ballast.open("ab", buffering=0) as file:
        while size:
            try:
                size = size if file.write(bytes(size)) == size else size // 2
            except OSError:
                size //= 2

def tell(error):
    print(f"{type(error).__name__} {error}".replace(f"{disk}/", ""))

def refused(attempt):
    for _ in range(200):  # there may be room for a few lines in a block that is begun
        try:
            attempt()
        except Exception as error:
            return tell(error)
    print("nothing was refused")
"""

SITE = """
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from synthfed.client.books.audit_log import AuditLog
from synthfed.client.entries import Charge
from synthfed.client.keys.files import write_secret
from synthfed.client.keys.identity import identity_pem
from synthfed.client.vault import Ledger
from synthfed.protocols.privacy.accountant import SampledGaussian

me = Ed25519PrivateKey.from_private_bytes(bytes(32))
write_secret(disk / "identity.key", identity_pem(me))

def charge(number):
    return Charge(bytes(32), "s", "critic", bytes(32), number, bytes(32), SampledGaussian(0.1, 1.0, 1))

def opened():
    return Ledger(disk / "ledger.db", me)

Ledger(disk / "ledger.db", me, create=True).close()
ledger, log = opened(), AuditLog(disk / "audit.log", me)
"""

RUN = """
import numpy as np
from collections import Counter
from synthfed.protocols.study import parse_study
from synthfed.server.store import Run, Status, Tally

text = (Path(sys.argv[2]) / "tests/e2e/full_disk.toml").read_text()
study, tally = parse_study(text, where="test"), Tally(charged={"a": Counter(), "b": Counter()})

def begun(resume):
    return Run.begin(disk / "run", text, {}, resume=resume)

def asked(number):
    tally.attempts["critic"] = tally.charged["a"]["critic"] = number

def found():
    state, last = begun(True).load(study)
    print(float(state["w"][0]), last.attempts["critic"], last.charged["a"]["critic"])

run = begun(False)
"""


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The place where each process mounts its disk; skips where it may not."""
    folder = tmp_path_factory.mktemp("disk")
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed: no small disk can be made")
    done = on_a_small_disk(folder, "")
    if done.returncode:
        pytest.skip(f"this machine lets no user mount a small disk: {done.stderr.strip()}")
    return folder


def on_a_small_disk(folder: Path, code: str) -> "subprocess.CompletedProcess[str]":
    """Run code in a process that alone sees a disk of a mebibyte at ``folder``."""
    apart = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _MOUNT, str(folder)]
    command = [*apart, sys.executable, "-c", DISK + code, str(folder), str(ROOT)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def lines(folder: Path, code: str) -> list[str]:
    done = on_a_small_disk(folder, code)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_charge_without_room_is_none_and_the_ledger_goes_on_when_there_is_room(disk: Path) -> None:
    code = """
ledger.charge(charge(1))
ledger.settle(1, "sent")
fill()
refused(lambda: ledger.charge(charge(2)))
ledger.close()
ballast.unlink()
ledger = opened()
print(ledger.length, ledger.unsettled(), ledger.charge(charge(2)))
"""
    said, state = lines(disk, SITE + code)
    assert said.startswith("PrivacyError ledger.db: the ledger cannot be written")
    assert said.endswith("free disk space")
    assert state == "1 () 2"


def test_a_step_whose_outcome_finds_no_room_stays_charged_until_a_person_has_looked(disk: Path) -> None:
    code = """
ledger.charge(charge(1))
fill()
refused(lambda: ledger.settle(1, "sent"))
ledger.close(), log.close()
fill()
clear = [sys.executable, "-m", "synthfed.plugins.cli", "client", "clear", "--home", str(disk)]
full = subprocess.run(clear, capture_output=True, text=True)
print(full.returncode, full.stderr.strip())
ballast.unlink()
print(opened().unsettled())
print(subprocess.run(clear, capture_output=True, text=True).stdout.strip())
ledger = opened()
print(ledger.length, ledger.unsettled())
"""
    said, full, inside, cleared, state = lines(disk, SITE + code)
    assert said.startswith("PrivacyError ledger.db: the ledger cannot be written")
    assert full.startswith("5 synthfed: ")
    assert "free disk space" in full
    assert (inside, state) == ("(1,)", "1 ()")
    assert cleared == "1 interrupted or overrun step(s) cleared; their charges stand"


def test_a_decision_that_finds_no_room_in_the_log_is_none_and_the_log_goes_on(disk: Path) -> None:
    code = """
fill()
refused(lambda: log.note("refused"))
log.close()
ballast.unlink()
log = AuditLog(disk / "audit.log", me)
log.note("agent-started")
print((disk / "audit.log").read_text().count("agent-started"))
"""
    said, noted = lines(disk, SITE + code)
    assert said == "PrivacyError audit.log: a line could not be written whole; free disk space"
    assert noted == "1"


def test_a_round_whose_asking_finds_no_room_is_not_asked_and_none_before_it_forgotten(disk: Path) -> None:
    """The coordinator's own journal: what it has asked for since the last checkpoint."""
    code = """
run.save(study, {"w": np.ones(1000)}, tally)
numbers = iter(range(1, 1000))
fill()

def note():
    asked(next(numbers))
    run.note_asked(tally)

refused(note)
last = tally.attempts["critic"] - 1
run.report(Status(phase="paused", message="no room"))
print(run.status().phase, run.status().message)
refused(lambda: begun(True))
ballast.unlink()
found()
print(last)
"""
    said, status, again, state, last = lines(disk, RUN + code)
    assert said == (
        "ConfigError run/asked.jsonl: cannot be written: No space left on device; free disk space, "
        "then go on with --resume; the last checkpoint stands"
    )
    assert status == "paused no room", "the last word finds room"
    assert again == "ConfigError run/settings.json: cannot be written: No space left on device; free disk space"
    assert state == f"1.0 {last} {last}"


def test_a_checkpoint_that_finds_no_room_leaves_the_last_one_and_all_that_was_asked_for(disk: Path) -> None:
    code = """
asked(4)
run.save(study, {"w": np.ones(1000)}, tally)
asked(5)
run.note_asked(tally)
fill()
refused(lambda: run.save(study, {"w": np.zeros(1000)}, tally))
ballast.unlink()
found()
print(sorted(path.name for path in (disk / "run").iterdir() if "part" in path.name))
run = begun(True)
run.save(study, {"w": np.zeros(1000)}, tally)
found()
"""
    said, state, left, then = lines(disk, RUN + code)
    assert said == (
        "ConfigError run/checkpoint.safetensors: cannot be written: No space left on device; free disk space, "
        "then go on with --resume; the last checkpoint stands"
    )
    assert (state, left, then) == ("1.0 5 5", "[]", "0.0 5 5")
