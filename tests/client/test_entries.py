"""Entries of a ledger: the published vector, what their tags cover, and what they add up to."""

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from synthfed.client.entries import (
    GENESIS,
    Book,
    Charge,
    Note,
    blocked,
    chain_key,
    charged,
    loaded,
    mark,
    released,
    reserved,
    seal,
)
from synthfed.client.vault import Ledger
from synthfed.protocols.approval import NEVER
from synthfed.protocols.errors import PrivacyError
from synthfed.protocols.privacy.accountant import SampledGaussian

VECTOR: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors/ledger.json").read_text(encoding="ascii"))
BLOCKS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors/ledger-blocks.json").read_text(encoding="ascii")
)
RESERVATIONS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors/ledger-reservations.json").read_text(encoding="ascii")
)
ME = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(VECTOR["identity_seed"]))
KEY = bytes.fromhex(VECTOR["chain_key"])
CHARGE = Charge(b"s" * 32, "ä first", "critic", b"t" * 32, 1, b"c" * 32, SampledGaussian(0.1, 2.0000000000000004, 1))


def notes(entries: list[dict[str, Any]] = VECTOR["entries"]) -> list[tuple[int, int, Note, bytes]]:
    """Return place, time, entry and tag of every entry of a vector."""
    return [(e["sequence"], e["at_unix_s"], Note(e["kind"], e["content"]), bytes.fromhex(e["tag"])) for e in entries]


def put(path: Path, rows: list[tuple[int, int, Note, bytes]]) -> None:
    """Add rows to a ledger's file behind the program's back."""
    with closing(sqlite3.connect(path)) as db:
        for sequence, at_unix_s, note, tag in rows:
            row = (sequence, at_unix_s, note.kind, note.content, tag)
            db.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", row)
        db.commit()


def test_key_tags_and_noted_mark_are_those_of_the_vector() -> None:
    assert chain_key(ME) == KEY
    tip = GENESIS
    for sequence, at_unix_s, note, tag in notes():
        tip = seal(KEY, tip, sequence, at_unix_s, note)
        assert tip == tag
    length = len(notes())
    assert length.to_bytes(8, "little") + mark(KEY, length, tip) == bytes.fromhex(VECTOR["noted"])
    assert notes()[0][2] == charged(CHARGE)


def test_a_ledger_with_the_entries_of_the_vector_opens_and_states_what_the_vector_says(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    Ledger(path, ME, create=True).close()
    put(path, notes())
    path.with_suffix(".mark").write_bytes(bytes.fromhex(VECTOR["noted"]))
    with closing(Ledger(path, ME)) as ledger:
        assert (ledger.length, ledger.head.hex()) == tuple(VECTOR["stated"].values())
        assert (ledger.unsettled(), ledger.failures(), ledger.overruns()) == ((3,), 0, 0)
        assert ledger.journal_floors() == {"0b" * 32: 7}
        assert ledger.events() == [replace(CHARGE.event, count=3)]
        assert ledger.count(CHARGE.study, "critic") == 3


def test_blocks_of_the_vector_are_sealed_as_it_says_and_the_latest_counts(tmp_path: Path) -> None:
    tip = GENESIS
    for sequence, at_unix_s, note, tag in notes(BLOCKS["entries"]):
        assert note == blocked(CHARGE.study, json.loads(note.content)["at_unix_s"])
        tip = seal(KEY, tip, sequence, at_unix_s, note)
        assert tip == tag
    path = tmp_path / "ledger.db"
    Ledger(path, ME, create=True).close()
    put(path, notes(BLOCKS["entries"]))
    path.with_suffix(".mark").write_bytes(bytes.fromhex(BLOCKS["noted"]))
    with closing(Ledger(path, ME)) as ledger:
        assert ledger.blocked_unix_s(CHARGE.study) == BLOCKS["blocked_unix_s"]
        assert ledger.blocked_unix_s(b"t" * 32) == NEVER
        assert (ledger.length, ledger.head) == (0, GENESIS)  # peers are told nothing of it


def test_a_ledger_with_reservations_opens_and_keeps_what_the_vector_says(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    Ledger(path, ME, create=True).close()
    written = notes(RESERVATIONS["entries"])
    put(path, written)
    path.with_suffix(".mark").write_bytes(bytes.fromhex(RESERVATIONS["noted"]))
    with closing(Ledger(path, ME)) as ledger:
        (kept,) = ledger.book.reserved.values()
        assert (kept.study, kept.rounds_left(ledger.book.rounds)) == (CHARGE.study, RESERVATIONS["left"])
        assert reserved(kept) == written[1][2]
        assert ledger.blocked_unix_s(b"t" * 32) == RESERVATIONS["blocked_unix_s"]
        assert ledger.book.ledger == RESERVATIONS["ledger"]
    assert [released(b"t" * 32, RESERVATIONS["blocked_unix_s"]), loaded(RESERVATIONS["ledger"], "ab" * 16)] == [
        written[-1][2],
        written[0][2],
    ]


def test_an_earlier_block_is_not_written_again_and_none_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(Ledger(path, ME, create=True)) as ledger:
        for at_unix_s in (NEVER, 5, 5, 3, 7):
            ledger.remember_block(b"s" * 32, at_unix_s)
    with closing(sqlite3.connect(path)) as db:
        assert [json.loads(row[0])["at_unix_s"] for row in db.execute("SELECT content FROM entries")] == [5, 7]
    with closing(Ledger(path, ME)) as ledger:
        assert ledger.blocked_unix_s(b"s" * 32) == 7


@pytest.mark.parametrize(
    "other",
    [
        replace(CHARGE, study=b"S" * 32),
        replace(CHARGE, study_name="a first"),
        replace(CHARGE, kind="criti"),
        replace(CHARGE, transcript=b"T" * 32),
        replace(CHARGE, counter=2),
        replace(CHARGE, context=b"C" * 32),
        replace(CHARGE, event=SampledGaussian(0.1, 2.0, 1)),
        replace(CHARGE, event=SampledGaussian(0.10000000000000002, 2.0000000000000004, 1)),
    ],
)
def test_every_field_of_a_charge_enters_the_tag_of_its_entry(other: Charge) -> None:
    assert seal(KEY, GENESIS, 1, 0, charged(CHARGE)) != seal(KEY, GENESIS, 1, 0, charged(other))


def test_key_place_time_kind_content_and_what_came_before_enter_the_tag() -> None:
    note = charged(CHARGE)
    tags = {
        seal(KEY, GENESIS, 1, 0, note),
        seal(bytes(32), GENESIS, 1, 0, note),
        seal(KEY, b"h" * 32, 1, 0, note),
        seal(KEY, GENESIS, 2, 0, note),
        seal(KEY, GENESIS, 1, 1, note),
        seal(KEY, GENESIS, 1, 0, replace(note, kind="outcome")),
        seal(KEY, GENESIS, 1, 0, replace(note, content=note.content + " ")),
    }
    assert len(tags) == 7
    assert len({mark(KEY, 1, GENESIS), mark(KEY, 2, GENESIS), mark(KEY, 1, KEY), mark(bytes(32), 1, GENESIS)}) == 4


def test_a_floor_rises_and_never_falls_and_a_clearance_forgets_what_was_before_it_only() -> None:
    book = Book()
    for kind, content in (
        ("peers", '{"lengths":{"a":5}}'),
        ("peers", '{"lengths":{"a":3,"b":1}}'),
        ("charge", charged(CHARGE).content),
        ("outcome", '{"charge":1,"outcome":"failed"}'),
        ("clearance", "{}"),
        ("charge", charged(CHARGE).content),
        ("outcome", '{"charge":2,"outcome":"abandoned"}'),
    ):
        book.add(Note(kind, content), GENESIS, 0)
    assert (book.floors, book.overruns, book.failures) == ({"a": 5, "b": 1}, 1, 0)


def test_a_round_of_several_steps_has_a_kind_of_its_own_and_counts_as_one_round_with_all_its_steps() -> None:
    note = charged(replace(CHARGE, event=replace(CHARGE.event, count=5)))
    plain = charged(CHARGE)
    assert (note.kind, plain.kind) == ("charges", "charge")  # so that a version without steps refuses the ledger
    assert json.loads(note.content) == json.loads(plain.content) | {"steps": 5}
    book = Book()
    for each in (note, plain, note):
        book.add(each, b"tag", 0)
    assert (book.length, book.rounds[CHARGE.study, "critic"], book.unsettled) == (3, 3, {1, 2, 3})
    assert book.events() == [replace(CHARGE.event, count=11)]
    assert book.prices[CHARGE.study] == {("critic", 0.1, CHARGE.event.noise_multiplier, steps) for steps in (1, 5)}


def test_an_entry_of_an_unknown_kind_that_holds_asks_for_a_newer_version(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    Ledger(path, ME, create=True).close()
    note = Note("reward", "{}")
    put(path, [(1, 0, note, seal(KEY, GENESIS, 1, 0, note))])
    with pytest.raises(PrivacyError, match="entry 1 is of a kind that this version does not know; install a newer one"):
        Ledger(path, ME)
