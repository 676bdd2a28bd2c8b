"""The journal deleted, cut, rolled back or opened twice: the agent refuses to start, or its peers refuse it."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.client.federation import Federation, Identities, Join, is_sum, join_at

from synthfed.client.entries import Charge
from synthfed.client.vault import Ledger
from synthfed.plugins.api import PrivatePart
from synthfed.protocols.errors import PrivacyError
from synthfed.protocols.privacy.accountant import SampledGaussian
from synthfed.protocols.secagg import messages
from synthfed.protocols.secagg.aggregator import Aggregator
from synthfed.protocols.secagg.messages import Code, Refusal
from synthfed.protocols.secagg.policy import Policy

Start = Callable[[ExitStack], Join]
CHARGES = 4
ME = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)  # site a
APPEND_ONLY = "DROP TRIGGER entries_stay; DROP TRIGGER entries_last;"


def charge(counter: int) -> Charge:
    return Charge(b"s" * 32, "first", "critic", b"t" * 32, counter, b"c" * 32, SampledGaussian(0.5, 2.0, 1))


def files_of(path: Path) -> tuple[Path, Path]:
    """Return the ledger's file and the mark noted beside it."""
    return path, path.with_suffix(".mark")


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A closed ledger of four settled charges, in eight entries."""
    path = tmp_path / "ledger.db"
    with closing(Ledger(path, ME, create=True)) as ledger:
        for counter in range(CHARGES):
            ledger.settle(ledger.charge(charge(counter)), "sent")
    return path


@pytest.fixture
def start(tmp_path: Path, policy: Policy, identities: Identities, tiny: PrivatePart) -> Start:
    """Return a function that lets the three agents be started anew until a stack is left, which stops them."""
    return lambda stack: join_at(stack, tmp_path, policy, identities, tiny)


def test_a_journal_that_was_deleted_is_refused_and_no_new_one_takes_its_place(written: Path) -> None:
    written.unlink()
    with pytest.raises(PrivacyError, match="the ledger is missing; restore it, a new one would forget"):
        Ledger(written, ME)
    assert not written.exists()


@pytest.mark.parametrize("content", [None, b"", bytes(39), bytes(41)], ids=["missing", "empty", "short", "long"])
def test_a_journal_whose_noted_mark_is_missing_or_damaged_is_refused(written: Path, content: bytes | None) -> None:
    _, mark = files_of(written)
    mark.unlink()
    if content is not None:
        mark.write_bytes(content)
    with pytest.raises(PrivacyError, match="is missing or damaged; restore it together with the ledger"):
        Ledger(written, ME)


@pytest.mark.parametrize("kept", range(2 * CHARGES))
def test_a_journal_whose_last_entries_were_removed_is_refused(written: Path, kept: int) -> None:
    with closing(sqlite3.connect(written)) as db:
        db.executescript(APPEND_ONLY)
        db.execute("DELETE FROM entries WHERE sequence > ?", (kept,))
        db.commit()
    with pytest.raises(PrivacyError, match="entries were removed from its end"):
        Ledger(written, ME)


def test_a_journal_cut_at_any_length_is_refused_or_has_lost_no_entry_outcome_or_peer(written: Path) -> None:
    """Cut at every 256th byte, and at each of the first and the last hundred."""
    peers = {"b": 7, "c": 9}
    with closing(Ledger(written, ME)) as ledger:
        ledger.remember_peers(peers)
    whole = written.read_bytes()
    refused = set()
    for size in sorted({*range(0, len(whole), 256), *range(100), *range(len(whole) - 100, len(whole) + 1)}):
        written.write_bytes(whole[:size])
        try:
            with closing(Ledger(written, ME)) as ledger:
                assert (ledger.length, ledger.unsettled(), ledger.journal_floors()) == (CHARGES, (), peers)
        except PrivacyError:
            refused.add(size)
    page = 4096  # the last one holds an index only
    assert refused >= set(range(0, len(whole) - page, 256))
    assert len(whole) not in refused


def test_a_journal_restored_without_its_mark_is_refused(written: Path, tmp_path: Path) -> None:
    backup = shutil.copy(written, tmp_path / "backup")
    with closing(Ledger(written, ME)) as ledger:
        ledger.charge(charge(9))
    shutil.copy(backup, written)
    with pytest.raises(PrivacyError, match="entries were removed from its end"):
        Ledger(written, ME)


def roll_of(federation: Federation, session: bytes) -> messages.Roll:
    """Return everyone's Hello, as an honest coordinator hands it on."""
    federation.aggregator = Aggregator(federation.policy, session)
    for site in federation.agents:
        hello = federation.ask(site, federation.aggregator.open())
        assert isinstance(hello, messages.Hello)
        federation.aggregator.add_hello(site, hello)
    return federation.aggregator.roll()


@pytest.mark.parametrize("met_again", [True, False], ids=["after a new handshake", "at the same length"])
def test_a_journal_restored_with_its_mark_after_a_restart_is_refused_by_peers_that_met_a_longer_one(
    start: Start, tmp_path: Path, met_again: bool
) -> None:
    """All agents are restarted in between, so what the peers remember is what they have on disk."""
    home, backup = files_of(tmp_path / "a.db"), files_of(tmp_path / "backup.db")
    with ExitStack() as stack:
        assert is_sum(start(stack)().reply())
    for file, copy in zip(home, backup, strict=True):
        shutil.copy(file, copy)
    with ExitStack() as stack:
        assert is_sum(start(stack)().reply())
    if met_again:
        with ExitStack() as stack:
            start(stack)()
    for file, copy in zip(home, backup, strict=True):
        shutil.copy(copy, file)
    with ExitStack() as stack:
        federation = start(stack)(shaken=False)
        assert federation.a.ledger.length == 1  # by itself the site cannot know
        roll = roll_of(federation, b"m" * 32)
        answers = {site: federation.ask(site, roll) for site in ("b", "c")}
        for answer in answers.values():
            assert (answer == Refusal(Code.PROTOCOL)) is met_again
        assert federation.a.ledger.length == 1


def test_of_two_agents_over_one_journal_without_the_lock_each_charges_on_what_the_other_did(join: Join) -> None:
    """As the lock is on another file, the journal itself does not rely on it."""
    one, other = join(), join()
    replies = [is_sum(each.reply()) for each in (one, other, one, other, one)]
    assert replies == [True] * 4 + [False]  # the plan has four rounds of this sum
    other.a.ledger.refresh()
    assert one.a.ledger.book == other.a.ledger.book
    assert (one.a.ledger.length, one.a.ledger.unsettled(), other.a.ledger.unsettled()) == (4, (), ())


def test_a_journal_that_another_connection_holds_stops_the_agent_before_a_record_is_met(
    federation: Federation, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as holder:
        federation.a.ledger._db.execute("PRAGMA busy_timeout = 50")
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(PrivacyError, match="cannot be written"):
            federation.reply()
        federation.aggregator.give_up()
        holder.execute("ROLLBACK")
    assert federation.a.ledger.length == 0
    assert is_sum(federation.reply())


def test_a_journal_deleted_while_its_agent_runs_stops_the_next_start(start: Start, tmp_path: Path) -> None:
    with ExitStack() as stack:
        federation = start(stack)()
        assert is_sum(federation.reply())
        for end in ("", "-wal", "-shm"):
            (tmp_path / f"a.db{end}").unlink()
    assert not (tmp_path / "a.db").exists()
    with pytest.raises(PrivacyError, match="the ledger is missing"):
        Ledger(tmp_path / "a.db", ME)
