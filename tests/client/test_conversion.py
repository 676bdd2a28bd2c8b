"""A ledger of format 1 is refused until a person has it taken over: whole in one transaction, or left as it is."""

import os
import sqlite3
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from click.testing import Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.client import format_1
from tests.client.homes import make_home
from typer.testing import CliRunner

from synthfed.client import anchor, conversion, vault
from synthfed.client.check import preflight
from synthfed.client.cli import app
from synthfed.client.config import Home
from synthfed.client.conversion import convert, read_format_1
from synthfed.client.entries import Charge
from synthfed.client.keys.identity import load_identity
from synthfed.client.site import open_agent
from synthfed.client.vault import Ledger
from synthfed.plugins.processes import exclusive
from synthfed.protocols.errors import ConfigError, PrivacyError
from synthfed.protocols.privacy.accountant import SampledGaussian

ME = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
PEERS = {"0b" * 32: 7, "0c" * 32: 0}
OUTCOMES = {1: "sent", 2: "failed", 3: "cleared", 4: "abandoned", 5: "failed"}
NOW_UNIX_S = 1_800_000_000
REFUSED = "the ledger is of format 1; directly after the upgrade .* and only then, run `synthfed client convert`"
DROP = "DROP TRIGGER entries_stay; DROP TRIGGER entries_last;"


def charge(counter: int, kind: str = "critic") -> Charge:
    event = SampledGaussian(0.1, 2.0000000000000004, 1)
    return Charge(b"s" * 32, "ä first", kind, b"t" * 32, counter, b"c" * 32, event)


def take_over(path: Path, identity: Ed25519PrivateKey = ME) -> None:
    """Convert a ledger as the command does when nobody objects."""
    convert(path, identity, read_format_1(path, NOW_UNIX_S), NOW_UNIX_S)


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


def test_a_ledger_of_format_1_is_refused_and_left_as_it_is_until_it_is_taken_over(old: format_1.Written) -> None:
    before = old.path.read_bytes()
    for _ in range(2):
        with pytest.raises(PrivacyError, match=REFUSED):
            Ledger(old.path, ME)
    assert read_format_1(old.path, NOW_UNIX_S).book.length == 6
    assert (old.path.read_bytes(), version(old.path)) == (before, 1)


def test_a_ledger_of_format_1_is_taken_over_with_charges_outcomes_clearances_and_floors(old: format_1.Written) -> None:
    take_over(old.path)
    assert version(old.path) == 2
    assert not old.path.with_suffix(".head").exists()
    with closing(Ledger(old.path, ME)) as ledger:
        assert_taken_over(ledger)
        ledger.settle(6, "sent")
        assert ledger.charge(charge(7)) == 7
    with closing(Ledger(old.path, ME)) as ledger:
        assert (ledger.length, ledger.unsettled()) == (7, (7,))
    with pytest.raises(PrivacyError, match="is of format 2 and not of 1; there is nothing to convert"):
        take_over(old.path)


def test_an_empty_ledger_of_format_1_is_taken_over(tmp_path: Path) -> None:
    old = format_1.write(tmp_path / "ledger.db", [], {})
    take_over(old.path)
    with closing(Ledger(old.path, ME)) as ledger:
        assert ledger.charge(charge(1)) == 1


def test_times_of_charges_stay_and_what_had_none_gets_that_of_its_charge(old: format_1.Written) -> None:
    take_over(old.path)
    with closing(sqlite3.connect(old.path)) as db:
        rows = db.execute("SELECT kind, at_unix_s - ? FROM entries", (format_1.NOON_UNIX_S,)).fetchall()
    steps = [("charge", 1), ("outcome", 1), ("charge", 2), ("outcome", 2), ("charge", 3), ("outcome", 3)]
    steps += [("clearance", 3), ("charge", 4), ("outcome", 4), ("charge", 5), ("outcome", 5), ("charge", 6)]
    assert rows[:-2] == steps
    assert rows[-2:] == [(kind, NOW_UNIX_S - format_1.NOON_UNIX_S) for kind in ("peers", "converted")]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("UPDATE entries SET noise_multiplier = 9.0 WHERE sequence = 2", "entry 2 was changed or removed"),
        ("DELETE FROM outcomes WHERE sequence = 3; DELETE FROM entries WHERE sequence = 3", "entry 3 was changed"),
        ("DELETE FROM entries WHERE sequence = 6", "entries were removed from its end"),
        ("DROP TABLE peers", "cannot be used"),
    ],
)
def test_a_ledger_of_format_1_that_does_not_hold_is_not_taken_over_and_left_as_it_is(
    old: format_1.Written, sql: str, message: str
) -> None:
    with closing(sqlite3.connect(old.path)) as db:
        db.executescript(DROP + sql)
    before = old.path.read_bytes()
    with pytest.raises(PrivacyError, match=f"ledger\\.db: .*{message}.*; restore"):
        take_over(old.path)
    assert (old.path.read_bytes(), version(old.path)) == (before, 1)


def test_a_missing_ledger_is_not_taken_over_and_none_is_made(tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match="the ledger is missing; restore it"):
        read_format_1(tmp_path / "ledger.db", NOW_UNIX_S)
    assert not list(tmp_path.iterdir())


def test_only_what_was_shown_is_taken_over(old: format_1.Written) -> None:
    shown = read_format_1(old.path, NOW_UNIX_S)
    with closing(sqlite3.connect(old.path)) as db:
        db.execute("UPDATE outcomes SET outcome = 'sent'")
        db.commit()
    with pytest.raises(PrivacyError, match="has changed since it was shown"):
        convert(old.path, ME, shown, NOW_UNIX_S)
    assert version(old.path) == 1
    assert not old.path.with_suffix(".mark").exists()


def killer(wanted: int) -> Any:
    """Return a tracer that ends this process at the wanted line of reading and converting a ledger."""
    seen = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        if frame.f_code.co_filename not in (vault.__file__, conversion.__file__, anchor.__file__):
            return None
        seen += event == "line"
        if seen == wanted:
            os._exit(9)
        return trace

    return trace


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_conversion_that_ends_at_any_moment_leaves_one_format_or_the_other_and_loses_nothing(tmp_path: Path) -> None:
    """At every ninth line until the new mark is written, and then at every line."""
    versions, wanted, step = [], 1, 9
    while True:
        folder = tmp_path / str(wanted)
        folder.mkdir()
        charges = [charge(counter, "count" if counter == 6 else "critic") for counter in range(1, 7)]
        path = format_1.write(folder / "ledger.db", charges, OUTCOMES, [3], PEERS).path
        child = os.fork()
        if not child:
            sys.settrace(killer(wanted))
            take_over(path)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        versions.append(version(path))
        if path.with_suffix(".mark").exists():
            step = 1
        if versions[-1] == 1:
            assert path.with_suffix(".head").exists()
            take_over(path)
        with closing(Ledger(path, ME)) as ledger:
            assert_taken_over(ledger)
        if status == 0:
            break
        wanted += step
    assert versions == sorted(versions)
    assert set(versions) == {1, 2}


def test_a_converted_ledger_never_goes_on_from_the_old_head(old: format_1.Written) -> None:
    """Who cuts everything that came after the conversion has kept the head that was noted beside the old ledger."""
    kept = old.path.with_suffix(".head").read_bytes()
    take_over(old.path)
    with closing(sqlite3.connect(old.path)) as db:
        (end,) = db.execute("SELECT sequence FROM entries WHERE kind = 'converted'").fetchone()
    with closing(Ledger(old.path, ME)) as ledger:
        ledger.settle(6, "failed")
        ledger.settle(ledger.charge(charge(7)), "sent")
    with closing(sqlite3.connect(old.path)) as db:
        db.executescript(DROP)
        db.execute("DELETE FROM entries WHERE sequence > ?", (end,))
        db.commit()
    old.path.with_suffix(".head").write_bytes(kept)
    with pytest.raises(PrivacyError, match="entries were removed from its end"):
        Ledger(old.path, ME)
    old.path.with_suffix(".mark").write_bytes(kept)
    with pytest.raises(PrivacyError, match="entries were removed from its end"):
        Ledger(old.path, ME)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A site whose ledger of format 2 holds six charges, the last of which failed on records."""
    home = make_home(tmp_path, "127.0.0.1:1", "no certificate")
    with closing(Ledger(home.ledger, load_identity(home.identity))) as ledger:
        for counter in range(1, 7):
            ledger.settle(ledger.charge(charge(counter)), "failed" if counter == 6 else "sent")
    return home


def replaced(home: Home) -> bytes:
    """Put a made-up ledger of format 1 and equal length in a home, whose charges cost nothing; return its bytes."""
    home.ledger.unlink()
    cheap = [replace(charge(counter), study=b"o" * 32, event=SampledGaussian(0.1, 1e3, 1)) for counter in range(1, 7)]
    return format_1.write(home.ledger, cheap, dict.fromkeys(range(1, 7), "sent")).path.read_bytes()


def run(home: Home, *arguments: str, answer: str = "") -> Result:
    return CliRunner().invoke(app, ["convert", "--home", str(home.path), *arguments], input=answer)


def test_a_made_up_ledger_of_format_1_is_refused_by_agent_check_and_clear(home: Home) -> None:
    made_up = replaced(home)
    with pytest.raises(PrivacyError, match=REFUSED), open_agent(home):
        pass
    budget = next(finding for finding in preflight(home) if finding.topic == "budget")
    assert not budget.is_ok
    assert "the ledger is of format 1" in budget.detail
    cleared = CliRunner().invoke(app, ["clear", "--home", str(home.path)])
    assert isinstance(cleared.exception, PrivacyError)
    assert (home.ledger.read_bytes(), version(home.ledger)) == (made_up, 1)


def test_the_command_shows_what_a_ledger_holds_and_takes_it_over_only_when_a_person_agrees(home: Home) -> None:
    replaced(home)
    home.ledger.with_suffix(".mark").unlink()
    for answer in ("n\n", ""):
        refused = run(home, answer=answer)
        assert refused.exit_code == 1
        assert "charges       6\nspent         epsilon " in refused.output
        assert " at delta 1e-05\nfailures      0 on records, 0 step(s) given up\n" in refused.output
        assert version(home.ledger) == 1
    agreed = run(home, answer="y\n")
    assert agreed.exit_code == 0
    assert "The ledger is of format 2 now" in agreed.output
    with closing(Ledger(home.ledger, load_identity(home.identity))) as ledger:
        assert ledger.length == 6


def test_a_script_need_not_be_asked_but_in_a_home_that_had_a_ledger_of_format_2(home: Home) -> None:
    replaced(home)
    refused = run(home, "--yes")
    assert refused.exit_code == 1
    assert "This home had a ledger of format 2, unless" in refused.output
    assert version(home.ledger) == 1
    home.ledger.with_suffix(".mark").unlink()
    assert run(home, "--yes").exit_code == 0
    assert version(home.ledger) == 2


def test_a_ledger_is_not_taken_over_while_an_agent_has_the_home(home: Home) -> None:
    replaced(home)
    with exclusive(home.lock, "agent"):
        refused = run(home, "--yes")
    assert isinstance(refused.exception, ConfigError)
    assert "another agent is using this home; stop it first" in str(refused.exception)
    assert version(home.ledger) == 1
