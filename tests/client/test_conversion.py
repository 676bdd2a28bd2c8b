"""A ledger of format 1 is verified and taken over whole in one transaction, or left as it is."""

import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.client import format_1

from synthfed.client import conversion, vault
from synthfed.client.entries import Charge
from synthfed.client.vault import Ledger
from synthfed.protocols.errors import PrivacyError
from synthfed.protocols.privacy.accountant import SampledGaussian

ME = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
PEERS = {"0b" * 32: 7, "0c" * 32: 0}
OUTCOMES = {1: "sent", 2: "failed", 3: "cleared", 4: "abandoned", 5: "failed"}
DROP = "DROP TRIGGER entries_stay; DROP TRIGGER entries_last;"


def charge(counter: int, kind: str = "critic") -> Charge:
    event = SampledGaussian(0.1, 2.0000000000000004, 1)
    return Charge(b"s" * 32, "ä first", kind, b"t" * 32, counter, b"c" * 32, event)


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        (number,) = db.execute("PRAGMA user_version").fetchone()
    return int(number)


@pytest.fixture
def old(tmp_path: Path) -> format_1.Written:
    """A ledger of six charges, the last of which is open, cleared after the third."""
    charges = [charge(counter, "count" if counter == 6 else "critic") for counter in range(1, 7)]
    return format_1.write(tmp_path / "ledger.db", charges, OUTCOMES, [0, 3, 3], PEERS)


def assert_taken_over(ledger: Ledger) -> None:
    assert (ledger.length, ledger.unsettled(), ledger.overruns(), ledger.failures()) == (6, (6,), 1, 1)
    assert (ledger.count(b"s" * 32, "critic"), ledger.count(b"s" * 32, "count")) == (5, 1)
    assert ledger.events() == [SampledGaussian(0.1, 2.0000000000000004, 6)]
    assert ledger.journal_floors() == PEERS


def test_the_format_that_is_converted_from_is_the_one_that_was_written(tmp_path: Path) -> None:
    """The head that the program of format 1 gave to these charges."""
    known = "063b081a87e8028af649719b5328bbaedeca73296ebd254ab37be9bfcd9e1319"
    assert format_1.write(tmp_path / "ledger.db", [charge(i) for i in (1, 2, 3)], {}).head.hex() == known


def test_a_ledger_of_format_1_is_taken_over_with_charges_outcomes_clearances_and_floors(old: format_1.Written) -> None:
    with closing(Ledger(old.path, ME)) as ledger:
        assert_taken_over(ledger)
        ledger.settle(6, "sent")
        assert ledger.charge(charge(7)) == 7
    assert version(old.path) == 2
    with closing(Ledger(old.path, ME)) as ledger:
        assert (ledger.length, ledger.unsettled()) == (7, (7,))


def test_an_empty_ledger_of_format_1_is_taken_over(tmp_path: Path) -> None:
    old = format_1.write(tmp_path / "ledger.db", [], {})
    with closing(Ledger(old.path, ME)) as ledger:
        assert ledger.charge(charge(1)) == 1


def test_times_of_charges_stay_and_what_had_none_gets_that_of_its_charge(old: format_1.Written) -> None:
    Ledger(old.path, ME).close()
    with closing(sqlite3.connect(old.path)) as db:
        rows = db.execute("SELECT kind, at_unix_s - ? FROM entries", (format_1.NOON_UNIX_S,)).fetchall()
    steps = [("charge", 1), ("outcome", 1), ("charge", 2), ("outcome", 2), ("charge", 3), ("outcome", 3)]
    steps += [("clearance", 3), ("charge", 4), ("outcome", 4), ("charge", 5), ("outcome", 5), ("charge", 6)]
    assert rows[:-2] == steps
    assert [kind for kind, _ in rows[-2:]] == ["peers", "converted"]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("UPDATE entries SET noise_multiplier = 9.0 WHERE sequence = 2", "entry 2 was changed or removed"),
        ("DELETE FROM outcomes WHERE sequence = 3; DELETE FROM entries WHERE sequence = 3", "entry 3 was changed"),
        ("DELETE FROM entries WHERE sequence = 6", "entries were removed from its end"),
        ("DROP TABLE peers", "cannot be used"),
    ],
)
def test_a_ledger_of_format_1_that_does_not_hold_is_refused_and_left_as_it_is(
    old: format_1.Written, sql: str, message: str
) -> None:
    with closing(sqlite3.connect(old.path)) as db:
        db.executescript(DROP + sql)
    before = old.path.read_bytes()
    with pytest.raises(PrivacyError, match=f"ledger\\.db: .*{message}.*; restore"):
        Ledger(old.path, ME)
    assert (old.path.read_bytes(), version(old.path)) == (before, 1)


def killer(wanted: int) -> Any:
    """Return a tracer that ends this process at the wanted line of opening and converting a ledger."""
    seen = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        if frame.f_code.co_filename not in (vault.__file__, conversion.__file__):
            return None
        seen += event == "line"
        if seen == wanted:
            os._exit(9)
        return trace

    return trace


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_conversion_that_ends_at_any_moment_leaves_one_format_or_the_other_and_loses_nothing(tmp_path: Path) -> None:
    """At every ninth line."""
    versions = []
    for wanted in range(1, 10_000, 9):
        folder = tmp_path / str(wanted)
        folder.mkdir()
        charges = [charge(counter, "count" if counter == 6 else "critic") for counter in range(1, 7)]
        path = format_1.write(folder / "ledger.db", charges, OUTCOMES, [3], PEERS).path
        child = os.fork()
        if not child:
            sys.settrace(killer(wanted))
            Ledger(path, ME)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        versions.append(version(path))
        with closing(Ledger(path, ME)) as ledger:
            assert_taken_over(ledger)
        if status == 0:
            break
    assert versions == sorted(versions)
    assert set(versions) == {1, 2}


def test_a_converted_ledger_goes_on_from_the_old_head_only_if_that_was_never_replaced_by_hand(
    old: format_1.Written,
) -> None:
    """Who cuts a converted ledger needs the very file that was noted beside the old one; its numbers are no help."""
    noted = old.path.with_suffix(".head")
    before = noted.read_bytes()
    Ledger(old.path, ME).close()
    noted.write_bytes(before)  # as when the power fails before the new head is noted
    with closing(Ledger(old.path, ME)) as ledger:
        assert_taken_over(ledger)
    with closing(sqlite3.connect(old.path)) as db:
        db.executescript(DROP)
        db.executescript("DELETE FROM entries WHERE sequence > 10")
    with pytest.raises(PrivacyError, match="entries were removed from its end"):
        Ledger(old.path, ME)
