"""A home's identity key is followed by another: ledger and log go on, whatever dies in between, and nothing is lost."""

import json
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from types import FrameType

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.client.homes import approve, copied
from typer.testing import CliRunner

from synthfed.client.anchor import write_anchor
from synthfed.client.books.audit_log import AuditLog, read_log
from synthfed.client.books.lines import Line, log_key, log_mark
from synthfed.client.books.statement import read_statement
from synthfed.client.chain import mark_path
from synthfed.client.cli import app
from synthfed.client.config import Home
from synthfed.client.entries import Charge, chain_key, mark
from synthfed.client.keys import rotation
from synthfed.client.keys.identity import (
    identity_content,
    identity_pem,
    load_identity,
    next_identity,
    rewrite_identity,
)
from synthfed.client.keys.rotation import rotate
from synthfed.client.keys.succession import Keys, sealed_under, unsealed
from synthfed.client.roster import check_roster
from synthfed.client.vault import Ledger
from synthfed.protocols.enrolment import Enrolment
from synthfed.protocols.errors import ConfigError, PrivacyError
from synthfed.protocols.privacy.accountant import SampledGaussian
from synthfed.protocols.rotation import Rotation
from synthfed.protocols.signed import public_text

CHARGE = Charge(b"s" * 32, "first", "critic", b"t" * 32, 1, b"c" * 32, SampledGaussian(0.5, 2.0, 1))
NOW_S = 1_800_000_000
TOUCHED = {"rotation.py", "vault.py", "audit_log.py", "anchor.py", "files.py", "succession.py"}


@pytest.fixture
def home(made_home: Home, tmp_path: Path) -> Home:
    """A home that has charged two steps, one of which has no outcome."""
    place = copied(made_home, tmp_path)
    with closing(Ledger(place.ledger, load_identity(place.identity))) as ledger:
        ledger.settle(ledger.charge(CHARGE), "sent")
        ledger.charge(CHARGE)
    return place


def charged(home: Home, times: int = 1) -> None:
    with closing(Ledger(home.ledger, load_identity(home.identity))) as ledger:
        for _ in range(times):
            ledger.charge(CHARGE)


def rotated(home: Home) -> Enrolment:
    return rotate(home, lambda _: b"", identity_pem, NOW_S).enrolment


def verified(home: Home, charges: int, rotations: int) -> None:
    """Check that ledger and log hold under the home's key, have lost nothing, and that the enrolment tells of it."""
    identity = load_identity(home.identity)
    statement = read_statement(home.ledger, identity)
    assert statement.book.length == charges
    assert [entry.note.kind for entry in statement.entries].count("rotation") == rotations
    with closing(Ledger(home.ledger, identity)) as ledger:
        assert ledger.unsettled() == tuple(range(2, charges + 1))
    told = [line.body["what"] for line in read_log(home.audit_log, identity) if isinstance(line, Line)]
    assert told.count("identity-rotated") == rotations
    enrolment = Enrolment.model_validate_json(home.enrolment.read_bytes())
    enrolment.verify(where="enrolment.json")
    assert (enrolment.identity, len(enrolment.rotations)) == (public_text(identity), rotations)
    assert not list(home.path.glob("*.next"))


def test_ledger_and_log_go_on_under_the_new_key_and_hold_from_their_first_line(home: Home) -> None:
    first, node = load_identity(home.identity), Enrolment.model_validate_json(home.enrolment.read_bytes()).node
    enrolment = rotated(home)
    assert enrolment.follows(public_text(first))
    assert (enrolment.node, enrolment.site) == (node, "a")
    verified(home, 2, 1)
    second = load_identity(home.identity)
    assert public_text(second) == enrolment.identity != public_text(first)
    for gone in (first.private_bytes_raw(), identity_pem(first)):
        assert not any(gone in path.read_bytes() for path in home.path.rglob("*") if path.is_file())
    charged(home)
    enrolment = rotated(home)
    assert [each.old for each in enrolment.rotations] == [public_text(first), public_text(second)]
    charged(home, 2)
    verified(home, 5, 2)


def test_the_earlier_key_opens_neither_ledger_nor_log_and_can_write_no_entry(home: Home) -> None:
    first = load_identity(home.identity)
    rotated(home)
    charged(home)
    with pytest.raises(PrivacyError, match=r"entry 4 was changed or added, or identity\.key is not the one"):
        Ledger(home.ledger, first)
    with pytest.raises(PrivacyError, match=r"line .* or identity\.key is not the one it was written under"):
        AuditLog(home.audit_log, first)


@pytest.mark.parametrize("kept", [3, 4])
def test_who_has_the_earlier_key_cannot_hide_that_the_ledger_was_cut(home: Home, kept: int) -> None:
    first = load_identity(home.identity)
    rotated(home)
    charged(home)
    with closing(sqlite3.connect(home.ledger, isolation_level=None)) as db:
        (tag,) = db.execute("SELECT tag FROM entries WHERE sequence = 3").fetchone()
        db.execute("DROP TRIGGER entries_last")
        db.execute("DELETE FROM entries WHERE sequence > ?", (kept,))
    write_anchor(mark_path(home.ledger), 3, mark(chain_key(first), 3, tag))
    with pytest.raises(PrivacyError, match=r"removed from its end|was changed"):
        Ledger(home.ledger, load_identity(home.identity))


def test_who_has_the_earlier_key_cannot_hide_that_the_log_was_cut(home: Home) -> None:
    first = load_identity(home.identity)
    before = [line for line in read_log(home.audit_log, first) if isinstance(line, Line)]
    rotated(home)
    with closing(AuditLog(home.audit_log, load_identity(home.identity))) as log:
        log.note("later")
    kept = home.audit_log.read_bytes().splitlines(keepends=True)[:-1]
    home.audit_log.write_bytes(b"".join(kept))
    place = before[-1].after
    write_anchor(home.path / "audit.mark", place.lines, log_mark(log_key(first), place))
    with pytest.raises(PrivacyError, match="the log is shorter than was noted"):
        AuditLog(home.audit_log, load_identity(home.identity))


@pytest.mark.parametrize(("column", "value"), [("kind", "'outcome'"), ("content", "'{}'"), ("content", "'x'")])
def test_an_edit_of_the_rotation_itself_or_before_it_is_noticed(home: Home, column: str, value: str) -> None:
    rotated(home)
    with closing(sqlite3.connect(home.ledger, isolation_level=None)) as db:
        db.execute("DROP TRIGGER entries_stay")
        for place in (4, 1):
            (old,) = db.execute(f"SELECT {column} FROM entries WHERE sequence = ?", (place,)).fetchone()  # noqa: S608
            db.execute(f"UPDATE entries SET {column} = {value} WHERE sequence = ?", (place,))  # noqa: S608
            with pytest.raises(PrivacyError, match=r"entry [0-9] was changed"):
                Ledger(home.ledger, load_identity(home.identity))
            db.execute(f"UPDATE entries SET {column} = ? WHERE sequence = ?", (old, place))  # noqa: S608
    verified(home, 2, 1)


def test_a_study_whose_roster_has_the_earlier_key_is_refused_with_what_to_do(home: Home) -> None:
    config = home.load()
    study = home.load_study(config)
    rotated(home)
    with pytest.raises(ConfigError, match=r"lists an earlier key of this home, .*; send the coordinator this home's"):
        check_roster(home, config, study, load_identity(home.identity))
    text = (home.path / "study.toml").read_text(encoding="utf-8")
    earlier = Enrolment.model_validate_json(home.enrolment.read_bytes()).rotations[0].old
    (home.path / "study.toml").write_text(text.replace(earlier, public_text(load_identity(home.identity))))
    check_roster(home, config, home.load_study(config), load_identity(home.identity))
    approve(home)


def test_the_command_keeps_the_passphrase_and_finishes_what_was_interrupted(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    word, identity = tmp_path / "word", load_identity(home.identity)
    word.write_bytes(b"word\n")
    word.chmod(0o600)
    rewrite_identity(home.identity, identity, identity_content(identity, b"word"), b"word")
    command = ["key", "rotate", "--home", str(home.path), "--passphrase-file", str(word)]
    assert CliRunner().invoke(app, command, input="n\n").exit_code == 1
    with monkeypatch.context() as patch:
        patch.setattr(rotation, "_rotate_log", lambda *_: (_ for _ in ()).throw(ConfigError("no space")))
        assert str(CliRunner().invoke(app, [*command, "--yes"]).exception) == "no space"
    with pytest.raises(ConfigError, match="run `synthfed client key rotate` to finish it"):
        load_identity(home.identity, lambda _: b"word")
    done = CliRunner().invoke(app, [*command, "--yes"])
    assert done.exit_code == 0, done.exception
    assert "enrolment.json, fingerprint " in done.output.replace("\n", "")
    new = load_identity(home.identity, lambda _: b"word")
    rewrite_identity(home.identity, new, identity_pem(new), b"")
    verified(home, 2, 1)


def test_nothing_is_rotated_in_a_home_whose_ledger_or_log_does_not_hold(home: Home) -> None:
    with home.audit_log.open("ab") as file:
        file.write(b'{"tag":"00"}\n')
    with pytest.raises(PrivacyError, match="audit"):
        rotated(home)
    assert not next_identity(home.identity).exists()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_kill_at_any_line_leaves_a_home_that_is_not_rotated_or_that_the_same_command_finishes(
    home: Home, tmp_path: Path
) -> None:
    before, seen = load_identity(home.identity).private_bytes_raw(), dict[str, set[tuple[str, ...]]]()
    dry = Home(Path(shutil.copytree(home.path, tmp_path / "dry")))
    for line in sorted({1, *lines_after_changes(dry)}):
        copy = Home(Path(shutil.copytree(home.path, tmp_path / "copy")))
        in_child(copy, partial(die_at, line))
        files = tuple(sorted(path.name for path in copy.path.iterdir()))
        if next_identity(copy.identity).exists():
            seen.setdefault("interrupted", set()).add(files)
            rotated(copy)
            verified(copy, 2, 1)
        elif load_identity(copy.identity).private_bytes_raw() == before:
            seen.setdefault("not begun", set()).add(files)
            verified(copy, 2, 0)
        else:
            seen.setdefault("done", set()).add(files)
            verified(copy, 2, 1)
        shutil.rmtree(copy.path)
    assert set(seen) == {"not begun", "interrupted", "done"}
    staged = {name for files in seen["interrupted"] for name in files if name.endswith(".mark.next")}
    assert staged == {"ledger.mark.next", "audit.mark.next"}


def die_at(wanted: int, line: int) -> None:
    if line == wanted:
        os.kill(os.getpid(), signal.SIGKILL)


def lines_after_changes(home: Home) -> list[int]:
    """Rotate a home's key and return the numbers of the lines at which something in the home has just changed."""
    reader, writer = os.pipe()
    last: object = None

    def look(line: int) -> None:
        nonlocal last
        stats = [(path.name, path.stat()) for path in sorted(home.path.iterdir())]
        now = [(name, each.st_ino, each.st_size, each.st_mtime_ns) for name, each in stats]
        if now != last:
            os.write(writer, f"{line}\n".encode())
        last = now

    in_child(home, look)
    os.close(writer)
    with os.fdopen(reader) as file:
        return [int(line) for line in file]


def in_child(home: Home, at_line: Callable[[int], object]) -> None:
    """Rotate a home's key in a child that does something before each line of what may write."""
    child = os.fork()
    if child == 0:
        seen = 0

        def trace(frame: FrameType, event: str, _: object) -> object:
            nonlocal seen
            if Path(frame.f_code.co_filename).name not in TOUCHED:
                return None
            if event == "line":
                seen += 1
                at_line(seen)
            return trace

        sys.settrace(trace)  # type: ignore[arg-type]
        rotated(home)
        os._exit(0)
    os.waitpid(child, 0)


def test_the_keys_of_a_chain_follow_from_the_last_one_and_from_no_other() -> None:
    first, second, third, other = (bytes([number]) * 32 for number in range(4))
    links = [(9, sealed_under(third, second)), (4, sealed_under(second, first))]
    keys = Keys.leading_to(third, links)
    assert [keys.at(place) for place in (0, 1, 3, 4, 8, 9, 99)] == [first] * 3 + [second] * 2 + [third] * 2
    assert keys.newest_from == 9
    assert unsealed(other, links[0][1]) is None
    assert unsealed(third, "?") is None
    with pytest.raises(ValueError, match="9"):
        Keys.leading_to(other, links)


def test_a_ledger_with_the_entries_of_the_vector_opens_under_the_key_that_follows(tmp_path: Path) -> None:
    vector = json.loads((Path(__file__).parents[1] / "vectors/ledger-rotation.json").read_text(encoding="ascii"))
    old, new = (
        Ed25519PrivateKey.from_private_bytes(bytes.fromhex(vector[name])) for name in ("earlier_seed", "identity_seed")
    )
    assert (chain_key(old).hex(), chain_key(new).hex()) == (vector["earlier_chain_key"], vector["chain_key"])
    path = tmp_path / "ledger.db"
    Ledger(path, old, create=True).close()
    with closing(sqlite3.connect(path)) as db:
        for each in vector["entries"]:
            row = (each["sequence"], each["at_unix_s"], each["kind"], each["content"], bytes.fromhex(each["tag"]))
            db.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", row)
        db.commit()
    mark_path(path).write_bytes(bytes.fromhex(vector["noted"]))
    with closing(Ledger(path, new)) as ledger:
        assert (ledger.length, ledger.unsettled()) == (2, (2,))
    with pytest.raises(PrivacyError):
        Ledger(path, old)


class Overtaken(Ledger):
    """The ledger of a process that another one overtakes between its first entry and the mark of it."""

    overtake: Callable[[], None] | None = None

    def _note_head(self) -> None:
        overtake, self.overtake = self.overtake, None
        if overtake is not None:
            overtake()
        super()._note_head()


def test_a_late_mark_takes_the_place_of_no_later_one_nor_of_that_under_the_key_that_follows(tmp_path: Path) -> None:
    path, old, new = tmp_path / "ledger.db", *(Ed25519PrivateKey.generate() for _ in range(2))

    def append() -> None:
        with closing(Ledger(path, old)) as other:
            other.release(b"t" * 32, 8)

    def hand_over() -> None:
        with closing(Ledger(path, old)) as other:
            other.hand_over(new, Rotation.of("a", old, new, 9))

    with closing(Overtaken(path, old, create=True)) as overtaken:
        for at_unix_s, overtake in ((1, append), (2, hand_over)):
            overtaken.overtake = overtake
            overtaken.release(b"s" * 32, at_unix_s)
            assert int.from_bytes(mark_path(path).read_bytes()[:8], "little") == 2 * at_unix_s
    with closing(Ledger(path, new)) as ledger:
        assert ledger.blocked_unix_s(b"s" * 32) == 2
