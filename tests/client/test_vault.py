"""The ledger survives kill -9, refuses every tampering, and never moves on a failed write; the identity is private."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from synthfed.client.entries import GENESIS, Charge
from synthfed.client.keys.files import write_secret
from synthfed.client.keys.identity import identity_pem, load_identity
from synthfed.client.vault import Ledger
from synthfed.plugins.processes import exclusive
from synthfed.protocols.errors import ConfigError, PrivacyError
from synthfed.protocols.privacy.accountant import SampledGaussian

CHILD = """
import os, signal, sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from synthfed.client.entries import Charge
from synthfed.client.vault import Ledger
from synthfed.plugins.processes import exclusive
from synthfed.protocols.privacy.accountant import SampledGaussian

def charge(counter):
    return Charge(b"s" * 32, "first", "critic", b"t" * 32, counter, b"c" * 32, SampledGaussian(0.5, 2.0, 1))

def die():
    os.kill(os.getpid(), signal.SIGKILL)

path, where = Path(sys.argv[1]), sys.argv[2]
ME = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
"""
ME = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
DROP = "DROP TRIGGER entries_stay; DROP TRIGGER entries_last;"


def charge(counter: int = 1, kind: str = "critic", study: bytes = b"s" * 32, noise: float = 2.0) -> Charge:
    return Charge(study, "first", kind, b"t" * 32, counter, b"c" * 32, SampledGaussian(0.5, noise, 1))


def child(code: str, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", CHILD + code, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def tamper(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript(sql)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with closing(Ledger(path, ME, create=True)) as opened:
        yield opened


@pytest.fixture
def written(path: Path) -> Path:
    """A closed ledger of four different charges and their outcomes, peers (entry 9) and a clearance (entry 10)."""
    with closing(Ledger(path, ME, create=True)) as ledger:
        for counter, outcome in enumerate(("sent", "abandoned", "failed", "sent"), 1):
            ledger.settle(ledger.charge(charge(counter, noise=float(counter))), outcome)
        ledger.remember_peers({"b" * 64: 7})
        ledger.clear()
    return path


@pytest.mark.parametrize(("where", "entries"), [("BEGIN", 2), ("INSERT", 2), ("COMMIT", 2), ("returned", 3)])
def test_kill_9_around_a_charge_leaves_it_whole_or_not_there_and_there_once_it_returned(
    path: Path, where: str, entries: int
) -> None:
    code = """
ledger = Ledger(path, ME, create=True)
ledger.charge(charge(1))
ledger.charge(charge(2))
ledger._db.set_trace_callback(lambda sql: die() if sql.startswith(where) else None)
ledger.charge(charge(3))
die()
"""
    process = child(code, str(path), where)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL, errors
    with closing(Ledger(path, ME, create=True)) as ledger:
        assert ledger.length == entries
        assert ledger.unsettled() == tuple(range(1, entries + 1))
        assert ledger.charge(charge(9)) == entries + 1
    with closing(Ledger(path, ME, create=True)) as ledger:
        assert ledger.length == entries + 1


@pytest.mark.parametrize("wait_s", [0.0, 0.013, 0.037])
def test_a_ledger_killed_at_any_moment_holds_every_charge_that_had_returned(path: Path, wait_s: float) -> None:
    code = """
ledger = Ledger(path, ME, create=True)
counter = 0
while True:
    counter += 1
    print(ledger.charge(charge(counter)), flush=True)
"""
    process = child(code, str(path), "")
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(wait_s)
    process.kill()
    rest, _ = process.communicate(timeout=30)
    returned = max([1, *(int(line) for line in rest.split() if line)])
    with closing(Ledger(path, ME, create=True)) as ledger:
        assert returned <= ledger.length <= returned + 1


def test_kill_9_before_an_outcome_is_noted_leaves_the_step_unsettled(path: Path) -> None:
    code = """
ledger = Ledger(path, ME, create=True)
ledger.charge(charge(1))
ledger._db.set_trace_callback(lambda sql: die() if sql.startswith("COMMIT") else None)
ledger.settle(1, "sent")
"""
    process = child(code, str(path), "")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL, errors
    with closing(Ledger(path, ME, create=True)) as ledger:
        assert ledger.unsettled() == (1,)


@pytest.mark.parametrize("damage", ["removed", "cut in half", "one bit turned"])
def test_a_ledger_that_lost_its_latest_charges_with_the_write_ahead_log_is_refused(path: Path, damage: str) -> None:
    code = """
ledger = Ledger(path, ME)
for counter in range(1, 5):
    ledger.charge(charge(counter))
die()
"""
    Ledger(path, ME, create=True).close()
    process = child(code, str(path), "")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL, errors
    log = path.with_name(path.name + "-wal")
    content = bytearray(log.read_bytes())
    log.unlink()
    if damage == "cut in half":
        log.write_bytes(content[: len(content) // 2])
    elif damage == "one bit turned":
        content[-5000] ^= 1
        log.write_bytes(content)
    with pytest.raises(PrivacyError, match="restore"):
        Ledger(path, ME)


def test_a_mark_that_a_power_cut_left_behind_is_no_reason_to_refuse(path: Path) -> None:
    noted = path.with_suffix(".mark")
    with closing(Ledger(path, ME, create=True)) as ledger:
        ledger.settle(ledger.charge(charge(1)), "sent")
        older = noted.read_bytes()
        for counter in range(2, 5):
            ledger.settle(ledger.charge(charge(counter)), "sent")
    noted.write_bytes(older)
    with closing(Ledger(path, ME)) as ledger:
        assert ledger.length == 4


def test_a_commit_is_on_disk_when_it_returns(ledger: Ledger) -> None:
    full = 2
    assert ledger._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert ledger._db.execute("PRAGMA synchronous").fetchone() == (full,)


def test_an_empty_ledger_starts_at_the_genesis_and_is_private_to_its_owner(path: Path, ledger: Ledger) -> None:
    assert (ledger.length, ledger.head) == (0, GENESIS)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_length_and_head_are_the_same_after_the_file_is_opened_again(written: Path) -> None:
    with closing(Ledger(written, ME, create=True)) as first:
        before = first.length, first.head
    with closing(Ledger(written, ME, create=True)) as second:
        assert (second.length, second.head) == before
        assert second.length == 4


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE entries SET content = '{}' WHERE sequence = 2",
        "DELETE FROM entries WHERE sequence = 10",
        "DELETE FROM entries",
    ],
)
def test_the_file_itself_forbids_updating_and_deleting_entries(written: Path, sql: str) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="append only"):
        tamper(written, sql)
    with closing(Ledger(written, ME, create=True)) as ledger:
        assert ledger.length == 4


@pytest.mark.parametrize(
    ("sql", "place"),
    [
        ("UPDATE entries SET content = replace(content, '\"noise_multiplier\":2.0', '\"noise_multiplier\":9.0')", 3),
        ("UPDATE entries SET content = replace(content, 'critic', 'count') WHERE sequence = 5", 5),
        ("UPDATE entries SET content = replace(content, 'abandoned', 'sent')", 4),
        ("UPDATE entries SET content = replace(content, 'failed', 'sent')", 6),
        ("UPDATE entries SET content = replace(content, ':7', ':6') WHERE kind = 'peers'", 9),
        ("UPDATE entries SET content = content || ' ' WHERE sequence = 10", 10),
        ("UPDATE entries SET kind = 'clearance', content = '{}' WHERE kind = 'peers'", 9),
        ("UPDATE entries SET at_unix_s = at_unix_s + 1 WHERE sequence = 1", 1),
        ("UPDATE entries SET tag = zeroblob(32) WHERE sequence = 4", 4),
        ("UPDATE entries SET tag = zeroblob(32) WHERE sequence = 10", 10),
        ("DELETE FROM entries WHERE sequence = 1", 1),
        ("DELETE FROM entries WHERE kind = 'outcome'", 2),
        ("DELETE FROM entries WHERE kind = 'peers'", 9),
        ("DELETE FROM entries WHERE sequence = 3; UPDATE entries SET sequence = 3 WHERE sequence = 4", 3),
        (
            "UPDATE entries SET sequence = 99 WHERE sequence = 2; UPDATE entries SET sequence = 2 WHERE sequence = 4;"
            "UPDATE entries SET sequence = 4 WHERE sequence = 99",
            2,
        ),
        ("INSERT INTO entries SELECT 11, at_unix_s, kind, content, tag FROM entries WHERE sequence = 10", 11),
        (
            "CREATE TABLE loose AS SELECT * FROM entries; UPDATE loose SET tag = 5, content = 7 WHERE sequence = 6;"
            "DROP TABLE entries; ALTER TABLE loose RENAME TO entries",
            6,
        ),
    ],
)
def test_an_entry_of_any_kind_changed_removed_added_or_moved_behind_the_triggers_is_refused(
    written: Path, sql: str, place: int
) -> None:
    tamper(written, DROP + sql)
    with pytest.raises(PrivacyError, match=rf"ledger\.db: entry {place} was changed, added or removed, or .*; restore"):
        Ledger(written, ME, create=True)


def test_an_editor_who_chains_everything_anew_is_noticed_without_the_identity(written: Path, path: Path) -> None:
    """The edit is perfect but for the key: all tags and the noted mark are those of another identity."""
    eve = Ed25519PrivateKey.generate()
    path.rename(path.with_name("true.db"))
    path.with_suffix(".mark").unlink()
    with closing(Ledger(path, eve, create=True)) as forged:
        forged.settle(forged.charge(charge()), "sent")
    with pytest.raises(PrivacyError, match=r"entry 1 was changed, added or removed, or identity\.key is not the one"):
        Ledger(path, ME)


def test_an_editor_who_cuts_the_end_cannot_note_an_earlier_place_without_the_identity(written: Path) -> None:
    noted = written.with_suffix(".mark")
    with closing(sqlite3.connect(written)) as db:
        (tag,) = db.execute("SELECT tag FROM entries WHERE sequence = 4").fetchone()
    tamper(written, DROP)
    tamper(written, "DELETE FROM entries WHERE sequence > 4")
    for forged in ((4).to_bytes(8, "little") + tag, bytes(8) + GENESIS):
        noted.write_bytes(forged)
        with pytest.raises(PrivacyError, match="entries were removed from its end; restore ledger and mark"):
            Ledger(written, ME)


def test_a_ledger_that_was_edited_while_it_is_open_decides_as_before_and_is_refused_later(path: Path) -> None:
    with closing(Ledger(path, ME, create=True)) as ledger:
        ledger.charge(charge())
        tamper(path, DROP)
        tamper(path, "UPDATE entries SET content = replace(content, 'critic', 'count')")
        assert (ledger.count(b"s" * 32, "critic"), ledger.count(b"s" * 32, "count")) == (1, 0)
    with pytest.raises(PrivacyError, match="entry 1 was changed"):
        Ledger(path, ME)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("PRAGMA user_version = 3", "ledger format 3 is not supported; this program writes 2"),
        ("PRAGMA user_version = 0", "ledger format 0 is not supported"),
        ("PRAGMA user_version = 1", "the ledger is of format 1; directly after the upgrade .* restore the true one"),
        ("DROP TABLE entries", "cannot be used"),
    ],
)
def test_another_format_or_a_missing_table_is_refused_in_one_sentence(written: Path, sql: str, message: str) -> None:
    tamper(written, sql)
    with pytest.raises(PrivacyError, match=message) as caught:
        Ledger(written, ME, create=True)
    assert str(written) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no database at all " * 99, b"SQLite format 3\x00" + bytes(200)])
def test_a_file_that_is_no_ledger_is_refused_in_one_sentence_and_left_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(PrivacyError) as caught:
        Ledger(path, ME, create=True)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


def test_a_ledger_that_cannot_be_opened_is_refused_in_one_sentence(path: Path) -> None:
    path.mkdir()
    with pytest.raises(PrivacyError):
        Ledger(path, ME, create=True)


def test_a_ledger_that_another_process_holds_says_so_and_charges_nothing(path: Path, ledger: Ledger) -> None:
    ledger._db.execute("PRAGMA busy_timeout = 1")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(PrivacyError, match=r"cannot be written .*; another process holds it"):
            ledger.charge(charge())
        other.execute("ROLLBACK")
    assert ledger.length == 0
    assert ledger.charge(charge()) == 1


def test_a_full_disk_leaves_length_and_head_and_file_as_they_were(path: Path, ledger: Ledger) -> None:
    ledger.charge(charge())
    (pages,) = ledger._db.execute("PRAGMA page_count").fetchone()
    ledger._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(PrivacyError, match=r"cannot be written .*; free disk space"):
        for counter in range(2, 1000):
            ledger.charge(charge(counter))
    before = ledger.length, ledger.head
    with pytest.raises(PrivacyError, match="cannot be written"):
        ledger.charge(charge(1000))
    assert (ledger.length, ledger.head) == before
    with closing(Ledger(path, ME, create=True)) as again:
        assert (again.length, again.head) == before
    ledger._db.execute("PRAGMA max_page_count = 100000")
    assert ledger.charge(charge(1001)) == before[0] + 1


def test_a_file_system_that_refuses_more_bytes_makes_the_charge_fail_and_stay_away(path: Path) -> None:
    code = """
import resource
ledger = Ledger(path, ME, create=True)
ledger.charge(charge(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
try:
    ledger.charge(charge(2))
except Exception as error:
    print(type(error).__name__, ledger.length)
"""
    process = child(code, str(path), "")
    output, errors = process.communicate(timeout=30)
    assert output.split() == ["PrivacyError", "1"], errors
    with closing(Ledger(path, ME, create=True)) as ledger:
        assert ledger.length == 1


def test_a_ledger_opened_without_the_right_to_write_refuses_the_charge(ledger: Ledger) -> None:
    ledger._db.execute("PRAGMA query_only = ON")
    with pytest.raises(PrivacyError, match="cannot be written"):
        ledger.charge(charge())
    assert (ledger.length, ledger.head) == (0, GENESIS)
    ledger._db.execute("PRAGMA query_only = OFF")
    assert ledger.charge(charge()) == 1


def test_a_charge_stays_unsettled_until_its_one_outcome_is_noted(ledger: Ledger) -> None:
    first, second = ledger.charge(charge(1)), ledger.charge(charge(2))
    assert ledger.unsettled() == (first, second)
    ledger.settle(first, "sent")
    assert ledger.unsettled() == (second,)
    with pytest.raises(PrivacyError, match="charge 1 was never made or has an outcome"):
        ledger.settle(first, "abandoned")
    with pytest.raises(PrivacyError, match="charge 99 was never made"):
        ledger.settle(99, "sent")
    assert ledger.unsettled() == (second,)


def test_a_clearance_settles_what_was_interrupted_and_forgets_overruns_and_failures(path: Path) -> None:
    with closing(Ledger(path, ME, create=True)) as ledger:
        for counter, outcome in enumerate(("abandoned", "failed", "sent"), 1):
            ledger.settle(ledger.charge(charge(counter)), outcome)
        ledger.charge(charge(4))
    with closing(Ledger(path, ME)) as ledger:
        assert (ledger.unsettled(), ledger.overruns(), ledger.failures()) == ((4,), 1, 1)
        assert ledger.clear() == 3
        ledger.settle(ledger.charge(charge(5)), "failed")
    with closing(Ledger(path, ME)) as ledger:
        assert (ledger.length, ledger.unsettled(), ledger.overruns(), ledger.failures()) == (5, (), 0, 1)


def test_what_became_of_a_step_changes_nothing_that_others_are_told(tmp_path: Path) -> None:
    """An outcome, a clearance or a peer's floor must not show in length and head before the next charge."""
    with closing(Ledger(tmp_path / "ledger.db", ME, create=True)) as ledger:
        number = ledger.charge(charge())
        told = ledger.length, ledger.head
        ledger.settle(number, "failed")
        ledger.clear()
        ledger.remember_peers({"b" * 64: 3})
        assert (ledger.length, ledger.head) == told
    with closing(Ledger(tmp_path / "ledger.db", ME)) as ledger:
        assert (ledger.length, ledger.head) == told


def test_rounds_are_counted_by_study_and_kind_and_equal_charges_are_counted_together(ledger: Ledger) -> None:
    for each in (charge(1), charge(2), charge(3, "count", noise=3.0), charge(4, study=b"z" * 32)):
        ledger.charge(each)
    assert ledger.count(b"s" * 32, "critic") == 2
    assert ledger.count(b"s" * 32, "count") == 1
    assert ledger.count(b"z" * 32, "critic") == 1
    assert ledger.count(b"z" * 32, "count") == 0
    assert ledger.events() == [SampledGaussian(0.5, 2.0, 3), SampledGaussian(0.5, 3.0, 1)]


def test_the_longest_journal_of_each_peer_is_remembered_and_never_falls(path: Path, ledger: Ledger) -> None:
    ledger.remember_peers({"a": 7, "b": 0})
    ledger.remember_peers({"a": 5, "b": 3})
    before = path.with_suffix(".mark").read_bytes()
    ledger.remember_peers({"a": 7, "b": 3})
    assert path.with_suffix(".mark").read_bytes() == before  # what is known is not written again
    with closing(Ledger(path, ME, create=True)) as again:
        assert again.journal_floors() == {"a": 7, "b": 3}


def test_a_second_process_cannot_lock_the_same_home_until_the_first_is_gone(tmp_path: Path) -> None:
    lock = tmp_path / "agent.lock"
    code = """
with exclusive(path, "agent"):
    print("held", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", CHILD + code, str(lock), ""]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(ConfigError, match="another agent is using this home; stop it first"),
            exclusive(lock, "agent"),
        ):
            pass
        holder.kill()
    with exclusive(lock, "agent"):
        pass


def test_a_lock_held_here_is_refused_to_another_process(tmp_path: Path) -> None:
    lock = tmp_path / "agent.lock"
    code = """
try:
    with exclusive(path, "agent"):
        print("locked")
except Exception as error:
    print(type(error).__name__)
"""
    with exclusive(lock, "agent"):
        output, errors = child(code, str(lock), "").communicate(timeout=30)
    assert output == "ConfigError\n", errors


def test_a_secret_is_written_for_its_owner_alone_whatever_the_umask_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    old = os.umask(0)
    try:
        write_secret(path, b"first")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ConfigError, match="never overwritten"):
        write_secret(path, b"second")
    assert path.read_bytes() == b"first"


def test_an_identity_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    write_secret(tmp_path / "identity.key", identity_pem(key))
    assert load_identity(tmp_path / "identity.key").private_bytes_raw() == key.private_bytes_raw()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o666])
def test_an_identity_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity.key"
    write_secret(path, identity_pem(Ed25519PrivateKey.generate()))
    path.chmod(mode)
    with pytest.raises(ConfigError, match="run `chmod 600` on it"):
        load_identity(path)


def test_a_missing_or_foreign_identity_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    with pytest.raises(ConfigError, match=r"identity\.key: cannot be read: No such file"):
        load_identity(path)
    write_secret(path, b"not a key")
    with pytest.raises(ConfigError, match="is not an Ed25519 private key; restore it from your backup"):
        load_identity(path)
