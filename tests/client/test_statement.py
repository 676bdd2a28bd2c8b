"""Statements of a ledger: table, exports and verdict, and that reading leaves no trace while an agent writes."""

import csv
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.client.homes import copied
from typer.testing import CliRunner

from synthfed.client.books.audit_log import AuditLog, mark_of
from synthfed.client.books.lines import Line, Place
from synthfed.client.books.looking import LONGEST_S, looked_at
from synthfed.client.books.statement import accounts, as_csv, as_json, read_statement, unlogged_sessions
from synthfed.client.chain import Entry, mark_path
from synthfed.client.cli import app
from synthfed.client.config import Home
from synthfed.client.entries import Charge
from synthfed.client.keys.identity import load_identity
from synthfed.client.vault import Ledger
from synthfed.protocols.errors import ConfigError, PrivacyError
from synthfed.protocols.privacy.accountant import SampledGaussian, epsilon

ME = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
ONE, TWO = b"s" * 32, b"u" * 32


def charge(counter: int, study: bytes = ONE, kind: str = "critic", steps: int = 1, name: str = "first") -> Charge:
    return Charge(study, name, kind, b"t" * 32, counter, b"c" * 32, SampledGaussian(0.5, 2.0, steps))


def fill(ledger: Ledger) -> None:
    """Charge two studies, one with rounds of several steps, and settle what was charged."""
    ledger.settle(ledger.charge(charge(1)), "sent")
    ledger.settle(ledger.charge(charge(2, kind="count")), "sent")
    ledger.settle(ledger.charge(charge(3, TWO, steps=4, name="a,b")), "abandoned")
    ledger.remember_peers({"b" * 64: 7})
    ledger.clear()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with closing(Ledger(tmp_path / "ledger.db", ME, create=True)) as ledger:
        fill(ledger)
    return tmp_path / "ledger.db"


def files(folder: Path, pattern: str = "*") -> dict[str, tuple[bytes, int, int]]:
    found = folder.glob(pattern)
    return {each.name: (each.read_bytes(), each.stat().st_mtime_ns, each.stat().st_mode) for each in found}


def test_a_statement_is_the_ledgers_own_book(path: Path) -> None:
    statement = read_statement(path, ME)
    assert [each.sequence for each in statement.entries] == list(range(1, 9))
    with closing(Ledger(path, ME)) as ledger:
        assert statement.book == ledger.book


def test_each_study_has_an_account_with_its_rounds_noise_and_own_epsilon(path: Path) -> None:
    first, second = accounts(read_statement(path, ME), 1e-5)
    assert (first.name, first.study, first.rounds) == ("first", ONE.hex(), {"count": 1, "critic": 1})
    assert first.noise == {"count": (2.0,), "critic": (2.0,)}
    assert (second.name, second.rounds) == ("a,b", {"critic": 1})
    assert first.epsilon == epsilon([SampledGaussian(0.5, 2.0, 2)], 1e-5)
    assert second.epsilon == epsilon([SampledGaussian(0.5, 2.0, 4)], 1e-5)


def test_the_exports_hold_every_entry_whole(path: Path) -> None:
    statement = read_statement(path, ME)
    document = json.loads(as_json(statement, "a"))
    assert (document["format"], document["site"], len(document["entries"])) == (2, "a", 8)
    rows = list(csv.DictReader(io.StringIO(as_csv(statement).decode(), newline="")))
    for entry, told, row in zip(statement.entries, document["entries"], rows, strict=True):
        assert (
            (told["sequence"], told["kind"]) == (entry.sequence, entry.note.kind) == (int(row["sequence"]), row["kind"])
        )
        assert told["content"] == json.loads(entry.note.content) == json.loads(row["content"])
        assert told["tag"] == row["tag"] == entry.tag.hex()
        assert told["at"] == row["at"]
    kinds = ["charge", "outcome", "charge", "outcome", "charges", "outcome", "peers", "clearance"]
    assert [row["kind"] for row in rows] == kinds
    assert [row["steps"] for row in rows if row["study"]] == ["1", "1", "4"]
    assert [row["outcome"] for row in rows if row["kind"] == "outcome"] == ["sent", "sent", "abandoned"]


def test_reading_a_closed_ledger_leaves_no_trace(path: Path) -> None:
    before = files(path.parent)
    assert sorted(before) == ["ledger.db", "ledger.mark"]
    read_statement(path, ME)
    assert files(path.parent) == before


READER = """
import sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from synthfed.client.books.statement import read_statement

for line in sys.stdin:
    me = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
    print(read_statement(Path(sys.argv[1]), me).book.length, flush=True)
"""


def test_another_process_reads_what_is_committed_and_leaves_no_trace_beside_a_writer(path: Path) -> None:
    command = [sys.executable, "-c", READER, str(path)]
    with (
        closing(Ledger(path, ME)) as ledger,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader,
    ):
        assert reader.stdin is not None
        assert reader.stdout is not None
        for counter in range(4, 40):
            ledger.settle(ledger.charge(charge(counter)), "sent")
            before = files(path.parent)
            assert "ledger.db-wal" in before
            reader.stdin.write("\n")
            reader.stdin.flush()
            assert int(reader.stdout.readline()) == counter
            assert files(path.parent) == before
        reader.stdin.close()


WRITER = """
import os, sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from synthfed.client.entries import Charge
from synthfed.client.vault import Ledger
from synthfed.protocols.privacy.accountant import SampledGaussian

ledger = Ledger(Path(sys.argv[1]), Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32))
print("ready", flush=True)
counter = 3
while True:
    counter += 1
    event = SampledGaussian(0.5, 2.0, 1)
    ledger.settle(ledger.charge(Charge(b"s" * 32, "first", "critic", b"t" * 32, counter, b"c" * 32, event)), "sent")
"""


def test_another_process_that_writes_all_the_time_or_was_killed_can_be_read(path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            lengths = [read_statement(path, ME).book.length for _ in range(20)]
        finally:
            os.kill(process.pid, signal.SIGKILL)
    assert lengths == sorted(lengths)
    before = files(path.parent)
    last = read_statement(path, ME).book.length
    assert last >= lengths[-1] >= 3
    assert files(path.parent) == before
    with closing(Ledger(path, ME)) as ledger:
        assert ledger.length == last


def left_behind(path: Path, leave_out: str = "", *, is_header_alone: bool = False) -> Path:
    """Return a copy of a ledger that is being written, as a writer that was killed leaves it."""
    other = path.parent / "copy"
    other.mkdir()
    noted = mark_path(path).read_bytes()
    with closing(Ledger(path, ME)) as ledger:
        ledger.charge(charge(4))
        content = {name: each for name, (each, _, _) in files(path.parent, "ledger.*").items() if name != leave_out}
    if is_header_alone:
        content |= {"ledger.db-wal": content["ledger.db-wal"][:32], mark_path(path).name: noted}
    for name, each in content.items():
        (other / name).write_bytes(each)
    return other / path.name


def test_a_write_ahead_log_without_its_index_is_read_and_left_as_it_is(path: Path) -> None:
    copy = left_behind(path, "ledger.db-shm")
    before = files(copy.parent)
    assert read_statement(copy, ME).book.length == 4
    assert files(copy.parent) == before


def test_a_log_whose_writer_was_killed_before_its_first_page_is_read_without_a_wait(path: Path) -> None:
    copy = left_behind(path, is_header_alone=True)
    before, start_s = files(copy.parent), time.process_time()
    assert read_statement(copy, ME).book.length == 3
    assert time.process_time() - start_s < 1
    assert files(copy.parent) == before


def test_an_index_that_was_torn_is_not_used(path: Path) -> None:
    copy = left_behind(path)
    index = copy.with_name(copy.name + "-shm")
    content = bytearray(index.read_bytes())
    content[8] ^= 1  # in the first of the two headers, which are written one after the other
    index.write_bytes(content)
    before = files(copy.parent)
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(index)], stdin=-1, stdout=-1, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert read_statement(copy, ME).book.length == 4
        holder.stdin.close()
    assert files(copy.parent) == before


HOLDER = """
import fcntl, sys

file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_SH, 1, 128)  # by which SQLite tells that somebody keeps the index up
print("held", flush=True)
sys.stdin.read()
"""


def test_a_file_that_stays_unreadable_is_told_after_a_while(path: Path) -> None:
    now = iter([0.0, 1.0, LONGEST_S + 1])

    def look(_: sqlite3.Connection) -> tuple[Entry, ...]:
        return looked_at_nothing(path.parent / "none" / "ledger.db")

    with pytest.raises(PrivacyError, match=r"cannot be read \(unable to open.*\); try again, or start the agent once"):
        looked_at(path, look, lambda: next(now))


def looked_at_nothing(path: Path) -> tuple[Entry, ...]:
    """Fail as SQLite does where a file cannot be opened at this moment."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)):
        return ()


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("UPDATE entries SET content = replace(content, '2.0', '9.0') WHERE sequence = 3", "entry 3 was changed"),
        ("DELETE FROM entries WHERE sequence = 8", "entries were removed from its end"),
        ("PRAGMA user_version = 3", "ledger format 3 is not supported; this program reads 2"),
        ("DROP TABLE entries", "cannot be read"),
    ],
)
def test_a_ledger_that_does_not_hold_is_told_as_when_it_is_opened(path: Path, sql: str, message: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript(f"DROP TRIGGER entries_stay; DROP TRIGGER entries_last; {sql}")
    with pytest.raises(PrivacyError, match=message):
        read_statement(path, ME)


def test_a_missing_ledger_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match="the ledger is missing; restore it"):
        read_statement(tmp_path / "ledger.db", ME)
    assert list(tmp_path.iterdir()) == []


def test_a_session_that_was_charged_must_be_in_the_log_unless_it_is_older(path: Path) -> None:
    statement = read_statement(path, ME)  # three charges of one session
    session = (b"t" * 32).hex()

    def lines(*bodies: dict[str, object]) -> list[Line]:
        return [Line({"what": "refused", **body}, Place()) for body in bodies]

    assert unlogged_sessions(statement, lines({}, {"charges": 0}, {"session": session})) == ()
    assert unlogged_sessions(statement, lines({}, {"charges": 0}, {"session": "00"})) == (session,)
    assert unlogged_sessions(statement, lines({}, {"charges": 2})) == (session,)
    assert unlogged_sessions(statement, lines({}, {"charges": 3})) == ()
    assert unlogged_sessions(statement, lines({})) == ()


@pytest.fixture
def home(made_home: Home, tmp_path: Path) -> Home:
    place = copied(made_home, tmp_path)
    with closing(Ledger(place.ledger, load_identity(place.identity))) as ledger:
        fill(ledger)
    return place


def run(home: Home, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--home", str(home.path)])


def test_the_table_tells_each_study_the_year_and_the_total(home: Home) -> None:
    shown = run(home, "ledger")
    assert shown.exit_code == 0, shown.output
    for part in ("first", ONE.hex()[:12], "critic 1", "count 1", "a,b", "of 8, 3 charges", "last 365 days   epsilon"):
        assert part in shown.output
    text = home.config.read_text(encoding="utf-8")
    home.config.write_text(text.replace("[policy]", "[policy]\nepsilon_per_year = 6\nepsilon_per_study = 5.5"))
    shown = run(home, "ledger")
    assert " of 6 at delta 1e-05" in shown.output
    assert " of 5.5" in shown.output


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_the_export_is_a_new_file_with_all_entries(home: Home, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"entries{suffix}"
    done = run(home, "ledger", "--export", str(out))
    assert done.exit_code == 0, done.output
    assert f"8 entries written to {out}" in done.output
    again = run(home, "ledger", "--export", str(out))
    assert isinstance(again.exception, ConfigError)
    assert "--export: must be a new file whose name ends in .json or .csv" in str(again.exception)


def test_the_verdict_is_one_line_and_an_exit_code(home: Home) -> None:
    good = run(home, "ledger", "--verify")
    assert (good.exit_code, good.output) == (0, "ok: 8 entries, of which 3 charges; all hold\n")
    with closing(sqlite3.connect(home.ledger)) as db:
        db.executescript("DROP TRIGGER entries_stay; UPDATE entries SET at_unix_s = 1 WHERE sequence = 2")
    for arguments in (("ledger", "--verify"), ("ledger",)):
        bad = run(home, *arguments)
        assert bad.exit_code == 1
        assert bad.output.startswith("not ok: ")
        assert "ledger.db: entry 2 was changed" in bad.output


def test_the_log_is_printed_and_verified_and_a_broken_line_is_named(home: Home) -> None:
    assert run(home, "clear").exit_code == 0
    shown, good = run(home, "log"), run(home, "log", "verify")
    assert shown.exit_code == good.exit_code == 0
    assert [line.split("  ")[2:4] for line in shown.output.splitlines()] == [
        ["agent", "log-begun"],
        ["operator", "study-approved"],
        ["operator", "ledger-cleared"],
    ]
    assert good.output == "ok: 3 lines; all hold\n"
    content = home.audit_log.read_bytes()
    home.audit_log.write_bytes(content + b'{"tag":"00')
    torn = run(home, "log", "verify")
    assert torn.exit_code == 0
    assert "note: 10 byte(s) after the last line are the beginning of one" in torn.output
    home.audit_log.write_bytes(content.replace(b"log-begun", b"log-begin"))
    for arguments in (("log",), ("log", "verify")):
        bad = run(home, *arguments)
        assert bad.exit_code == 1
        assert f"not ok: {home.audit_log}: line 1 was changed" in bad.output
    home.audit_log.unlink()
    missing = run(home, "log", "verify")
    assert missing.exit_code == 1
    assert "the log cannot be read (No such file or directory)" in missing.output


def test_a_log_that_was_brought_back_with_its_mark_is_told_by_the_ledger(home: Home) -> None:
    identity = load_identity(home.identity)
    kept = {each: each.read_bytes() for each in (home.audit_log, mark_of(home.audit_log))}
    with closing(AuditLog(home.audit_log, identity)) as log, closing(Ledger(home.ledger, identity)) as ledger:
        log.note("agent-started", charges=0)
        older = {each: each.read_bytes() for each in kept}
        log.note("session-opened", who="coordinator", session=(b"t" * 32).hex(), sites=["a"], charges=0)
        assert ledger.length == 3
    assert run(home, "log", "verify").exit_code == 0
    for each, content in older.items():
        each.write_bytes(content)
    told = run(home, "log", "verify")
    assert told.exit_code == 1
    assert "tells nothing of 1 session(s) that the ledger was charged in, the first of them 7474" in told.output


def test_a_ledger_that_was_brought_back_with_its_mark_is_told_by_the_log(home: Home) -> None:
    with closing(AuditLog(home.audit_log, load_identity(home.identity))) as log:
        log.note("agent-started", charges=3)
        assert run(home, "log", "verify").exit_code == 0
        log.note("session-over", charges=4)
    told = run(home, "log", "verify")
    assert told.exit_code == 1
    assert (
        "ledger.db: holds fewer charges than the 4 that the log tells of; ledger and mark are an older" in told.output
    )
