"""The log of decisions: whole or recoverable after any crash, and every edit of it found, with the line."""

import json
import os
import signal
import stat
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synthfed.client.books.audit_log import AuditLog, Unlogged, mark_of, read_log
from synthfed.client.books.lines import BrokenLine, Line, Place, follow, log_key, log_mark, read_whole, written
from synthfed.client.keys.succession import Keys
from synthfed.protocols.errors import PrivacyError

ME = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
KEY = log_key(ME)
KEYS = Keys(((1, KEY),))
NOW = 1_795_000_000.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


def opened(path: Path) -> AuditLog:
    return AuditLog(path, ME, lambda: NOW)


def write(path: Path, count: int = 4) -> None:
    with closing(opened(path)) as log:
        for number in range(count):
            log.note("refused", who="coordinator", study="first", terms="ab" * 32, rules=["a", "b"], charges=number)


def whats(path: Path) -> list[str]:
    return [each.body["what"] if isinstance(each, Line) else "unfinished" for each in read_log(path, ME)]


def test_a_line_is_json_with_number_time_person_and_facts_and_the_file_is_private(path: Path) -> None:
    write(path, 2)
    first, second, third = (json.loads(line) for line in path.read_text(encoding="ascii").splitlines())
    assert (first["n"], first["what"], first["who"], first["uid"]) == (1, "log-begun", "agent", os.getuid())
    assert second["at"] == datetime.fromtimestamp(NOW, UTC).isoformat().replace("+00:00", "Z")
    assert {name: third[name] for name in ("n", "who", "what", "study", "rules", "charges")} == {
        "n": 3,
        "who": "coordinator",
        "what": "refused",
        "study": "first",
        "rules": ["a", "b"],
        "charges": 1,
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(mark_of(path).stat().st_mode) == 0o600


def test_a_log_goes_on_where_it_ended_whoever_opens_it(path: Path) -> None:
    write(path, 2)
    write(path, 1)
    assert whats(path) == ["log-begun", "refused", "refused", "refused"]


def test_two_programs_write_in_turn_into_one_chain(path: Path) -> None:
    with closing(opened(path)) as agent, closing(opened(path)) as person:
        for _ in range(3):
            agent.note("refused")
            person.note("ledger-cleared", who="operator")
    assert whats(path) == ["log-begun", *["refused", "ledger-cleared"] * 3]


def test_reading_changes_and_makes_nothing(path: Path) -> None:
    write(path)
    before = {each.name: (each.read_bytes(), each.stat().st_mtime_ns) for each in path.parent.iterdir()}
    assert len([*read_log(path, ME)]) == 5
    assert {each.name: (each.read_bytes(), each.stat().st_mtime_ns) for each in path.parent.iterdir()} == before


bodies = st.lists(
    st.dictionaries(st.sampled_from(["study", "rule"]), st.text(max_size=8) | st.integers(), max_size=2),
    min_size=1,
    max_size=5,
)


def chain(facts: list[dict[str, str | int]]) -> tuple[list[bytes], Place]:
    lines, place = list[bytes](), Place()
    for each in facts:
        line, place = written(KEY, place, {"what": "refused", **each})
        lines.append(line)
    return lines, place


def noted_at(place: Place) -> tuple[int, bytes]:
    return place.lines, log_mark(KEY, place)


def is_found(content: bytes, place: Place) -> bool:
    """Return whether reading says that something is wrong."""
    try:
        [*read_whole(KEY, content, noted_at(place))]
    except BrokenLine:
        return True
    return False


@given(bodies)
def test_what_was_written_is_what_is_read(facts: list[dict[str, str | int]]) -> None:
    lines, place = chain(facts)
    read = [*read_whole(KEY, b"".join(lines), noted_at(place))]
    assert [each.body for each in read] == [{"what": "refused", **each} for each in facts]
    assert read[-1].after == place


@given(bodies, st.data())
def test_any_bit_turned_is_found(facts: list[dict[str, str | int]], data: st.DataObject) -> None:
    lines, place = chain(facts)
    content = bytearray(b"".join(lines))
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    assert is_found(bytes(content), place)


@given(bodies, st.binary(min_size=1, max_size=4), st.data())
def test_bytes_put_in_before_or_inside_any_line_are_found(
    facts: list[dict[str, str | int]], extra: bytes, data: st.DataObject
) -> None:
    lines, place = chain(facts)
    content = b"".join(lines)
    starts = st.sampled_from([content.index(line) for line in lines])
    at = data.draw(starts | st.integers(0, len(content) - 1))
    assert is_found(content[:at] + extra + content[at:], place)


def test_every_single_bit_of_a_short_log_counts() -> None:
    lines, place = chain([{"study": "first"}, {"rule": "policy.open"}])
    content = b"".join(lines)
    for bit in range(8 * len(content)):
        turned = bytearray(content)
        turned[bit // 8] ^= 1 << bit % 8
        assert is_found(bytes(turned), place), bit


@given(bodies, st.data())
def test_a_line_removed_added_twice_or_moved_and_a_cut_end_are_found(
    facts: list[dict[str, str | int]], data: st.DataObject
) -> None:
    lines, place = chain([*facts, {"rule": 1}])
    one, other = (data.draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    assert is_found(b"".join(lines[:one] + lines[one + 1 :]), place)
    assert is_found(b"".join([*lines[:one], lines[one], *lines[one:]]), place)
    if one != other:
        lines[one], lines[other] = lines[other], lines[one]
        assert is_found(b"".join(lines), place)
        lines[one], lines[other] = lines[other], lines[one]
    whole = b"".join(lines)
    assert is_found(whole[: data.draw(st.integers(0, len(whole) - 1))], place)
    assert is_found(whole + data.draw(st.binary(max_size=20)) + b"\n", place)


def test_the_line_that_does_not_hold_is_named(path: Path) -> None:
    write(path)
    good = path.read_bytes()
    path.write_bytes(good.replace(b'"charges":1', b'"charges":9'))
    with pytest.raises(PrivacyError, match=r"audit\.log: line 3 was changed, added, removed or moved"):
        whats(path)
    with pytest.raises(PrivacyError, match=r"audit\.log: line 3 was changed.*; restore log and mark as they were"):
        opened(path)
    path.write_bytes(b"".join(good.splitlines(keepends=True)[:-2]))
    with pytest.raises(PrivacyError, match=r"audit\.log: line 4 was removed: the log is shorter than was noted"):
        whats(path)
    with pytest.raises(PrivacyError, match="line 4 was removed"):
        opened(path)


def test_another_sites_log_does_not_hold_here(path: Path) -> None:
    eve = Ed25519PrivateKey.generate()
    AuditLog(path, eve).close()
    with pytest.raises(PrivacyError, match="line 1 was changed"):
        opened(path)


@pytest.mark.parametrize("gone", ["log", "mark"])
def test_a_log_or_a_mark_that_is_gone_is_no_new_beginning(path: Path, gone: str) -> None:
    write(path)
    (path if gone == "log" else mark_of(path)).unlink()
    with pytest.raises(
        PrivacyError, match=r"the log is missing|is missing or damaged; restore it together with the log"
    ):
        opened(path)
    with pytest.raises(PrivacyError, match=r"cannot be read|is missing or damaged"):
        whats(path)


def test_a_log_that_is_replaced_or_cut_while_it_is_in_use_stops_its_writer(path: Path) -> None:
    with closing(opened(path)) as log:
        log.note("refused")
        copy = path.read_bytes()
        path.write_bytes(copy[:50])
        with pytest.raises(PrivacyError, match="was replaced or cut while it was in use"):
            log.note("refused")
        path.unlink()
        path.write_bytes(copy)
        with pytest.raises(PrivacyError, match="was replaced or cut while it was in use"):
            log.note("refused")


def test_a_line_that_somebody_puts_in_while_the_log_is_in_use_stops_its_writer(path: Path) -> None:
    with closing(opened(path)) as log:
        path.write_bytes(path.read_bytes() + b'{"tag":"00","what":"study-accepted"}\n')
        with pytest.raises(PrivacyError, match="line 2 was changed, added"):
            log.note("refused")


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_a_write_that_is_interrupted_anywhere_is_kept_told_and_no_tampering(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("log") / "audit.log"
    write(path, 2)
    kept = path.read_bytes()
    for _ in range(data.draw(st.integers(1, 3))):  # also while the note of an earlier one is written
        before, mark = path.read_bytes(), mark_of(path).read_bytes()
        write(path, 1)
        added = path.read_bytes()[len(before) :]
        cut = data.draw(st.integers(1, added.index(b"\n")))
        path.write_bytes(before + added[:cut])
        mark_of(path).write_bytes(mark)
        kept = before + added[:cut]
        assert whats(path)[-1] == "unfinished"
    write(path, 1)
    assert whats(path)[-2:] == ["torn-write", "refused"]
    assert path.read_bytes().startswith(kept)
    assert "unfinished" not in whats(path)


def test_what_a_torn_line_tells_must_fit_what_stands_before_it(path: Path) -> None:
    write(path, 1)
    noted = mark_of(path).read_bytes()
    torn = path.read_bytes() + b'{"tag":"0123'
    path.write_bytes(torn)
    mark_of(path).write_bytes(noted)
    write(path, 0)
    assert whats(path) == ["log-begun", "refused", "unfinished"]
    write(path, 1)
    assert whats(path) == ["log-begun", "refused", "torn-write", "refused"]
    good = path.read_bytes()
    for bad in (good.replace(b'"0123{', b'"0124{'), good.replace(b'{"tag":"0123{', b"{"), good.replace(b"0123", b"")):
        assert bad != good
        path.write_bytes(bad)
        with pytest.raises(PrivacyError, match="line 3 was changed"):
            whats(path)


def test_a_mark_that_a_power_cut_left_behind_is_no_reason_to_refuse(path: Path) -> None:
    write(path, 1)
    older = mark_of(path).read_bytes()
    write(path, 3)
    mark_of(path).write_bytes(older)
    assert len(whats(path)) == 5
    opened(path).close()


CHILD = """
import os, resource, signal, sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from synthfed.client.books.audit_log import AuditLog

path = Path(sys.argv[1])
log = AuditLog(path, Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32))
log.note("refused")
"""


def child(code: str, path: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", CHILD + code, str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_disk_that_takes_half_a_line_stops_the_writer_and_the_next_one_goes_on(path: Path) -> None:
    code = """
room = path.stat().st_size + 40
resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
for _ in range(2):
    try:
        log.note("study-accepted")
    except Exception as error:
        print(type(error).__name__, error)
"""
    done = child(code, path)
    first, second = done.stdout.splitlines()
    assert "a line could not be written whole; free disk space" in first, done.stderr
    assert "the log cannot be used (File too large), and nothing is decided without it; free disk space" in second
    assert all(line.startswith("PrivacyError") for line in (first, second))
    assert whats(path) == ["log-begun", "refused", "unfinished"]
    write(path, 1)
    assert whats(path) == ["log-begun", "refused", "torn-write", "refused"]


def test_kill_9_leaves_every_line_that_had_returned(path: Path) -> None:
    done = child('log.note("study-accepted")\nos.kill(os.getpid(), signal.SIGKILL)', path)
    assert done.returncode == -signal.SIGKILL
    assert whats(path) == ["log-begun", "refused", "study-accepted"]
    write(path, 1)


def test_a_log_that_cannot_be_opened_says_what_to_do(path: Path) -> None:
    path.mkdir()
    mark_of(path).write_bytes((0).to_bytes(8, "little") + log_mark(KEY, Place()))
    with pytest.raises(PrivacyError, match=r"audit\.log: the log cannot be used \(Is a directory\), and nothing"):
        opened(path)


def test_a_crash_between_the_first_mark_and_the_log_is_gone_on_from(path: Path) -> None:
    mark_of(path).write_bytes((0).to_bytes(8, "little") + log_mark(KEY, Place()))
    write(path, 1)
    assert whats(path) == ["log-begun", "refused"]


def test_a_simulation_keeps_no_log(tmp_path: Path) -> None:
    Unlogged().note("refused")
    assert list(tmp_path.iterdir()) == []


def test_the_format_of_a_line_stays_as_it_is() -> None:
    """A log that one version wrote must hold in the next."""
    body = {"n": 1, "at": "2026-11-23T12:00:00Z", "who": "agent", "uid": 1000, "what": "log-begun"}
    line, place = written(KEY, Place(), body)
    assert line == (
        b'{"tag":"a49ab05b9721c18a7b70cbce6779c6c73c82bb2f10d11d78f2657e4cadfb6eb3",'
        b'"n":1,"at":"2026-11-23T12:00:00Z","who":"agent","uid":1000,"what":"log-begun"}\n'
    )
    assert log_mark(KEY, place).hex() == "be6491b55cd93db6b3ee93303dc8d63f70a65c66271d09a6fd33dd6433958d45"


def test_the_chain_of_a_place_does_not_fit_another_place() -> None:
    lines, place = chain([{}, {}])
    assert [each.after for each in follow(KEYS, Place(), b"".join(lines))][-1] == place
    with pytest.raises(BrokenLine):
        [*follow(KEYS, place, lines[0])]
