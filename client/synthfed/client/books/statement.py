"""A statement of a ledger: all of its entries, verified, while an agent may be writing more.

Never writes to the home, nor makes a file in it.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from synthfed.protocols.errors import PrivacyError
from synthfed.protocols.privacy.accountant import epsilon

from ..anchor import read_anchor
from ..chain import Entry, mark_path
from ..entries import Book, chain_key, events_of
from ..ledger_file import FORMAT
from .lines import Line
from .looking import entries_in, looked_at

COLUMNS: Final = ("sequence", "at", "kind", "study", "study_name", "sum", "sample_rate", "noise_multiplier", "steps")
COLUMNS_AFTER: Final = ("transcript", "counter", "context", "charge", "outcome", "content", "tag")


@dataclass(frozen=True, slots=True)
class Statement:
    """A ledger at one moment.

    Attributes:
        entries: all of them, in their order.
        book: what they add up to.
    """

    entries: tuple[Entry, ...]
    book: Book


@dataclass(frozen=True, slots=True)
class Account:
    """What one study has spent.

    Attributes:
        study: the hash of its terms, in hexadecimal.
        name: as it was charged.
        rounds: how many of each sum, by name.
        reserved: how many more of each sum are kept for it, by name.
        noise: the noise multipliers charged, by the sum's name.
        epsilon: of its charges alone, at the site's delta.
    """

    study: str
    name: str
    rounds: dict[str, int]
    reserved: dict[str, int]
    noise: dict[str, tuple[float, ...]]
    epsilon: float


def read_statement(path: Path, identity: Ed25519PrivateKey) -> Statement:
    """Return what a ledger holds, its whole chain verified.

    Raises:
        PrivacyError: it is missing, changed, shorter than it was, of another format, or cannot be read.
    """
    if not path.exists():
        raise PrivacyError(f"{path}: the ledger is missing; restore it, a new one would forget what was spent")
    noted = read_anchor(mark_path(path))  # before the entries: an agent may be adding some
    entries = looked_at(path, partial(entries_in, key=chain_key(identity), noted=noted, path=path))
    book = Book()
    for entry in entries:
        try:
            book.add(entry.note, entry.tag, entry.at_unix_s)
        except ValueError:
            raise PrivacyError(
                f"{path}: entry {entry.sequence} is of a kind that this version does not know; install a newer one"
            ) from None
    return Statement(entries, book)


def accounts(statement: Statement, delta: float) -> Iterator[Account]:
    """Yield what each study has spent or may still spend, in the order of their first entries."""
    book, names = statement.book, dict[str, str]()
    for content in map(_content, statement.entries):
        if "study_name" in content:
            names.setdefault(content["study"], content["study_name"])
    for study, name in names.items():
        key = bytes.fromhex(study)
        rounds = {kind: count for (each, kind), count in sorted(book.rounds.items()) if each == key}
        noise = {kind: tuple(sorted({price[2] for price in book.prices[key] if price[0] == kind})) for kind in rounds}
        reservation = book.reserved.get(key)
        reserved = reservation.rounds_left(book.rounds) if reservation else {}
        yield Account(study, name, rounds, reserved, noise, epsilon(events_of(book.costs_of(key)), delta))


def unlogged_sessions(statement: Statement, lines: Iterable[Line]) -> tuple[str, ...]:
    """Return the sessions that were charged and that a log does not tell of, in hexadecimal, in their order.

    Each is written down before its first charge, so a log without one has lost lines together with its mark. What was
    charged before the log's first line that counts charges is from before there was one.

    Args:
        statement: of the ledger, read before the log.
        lines: the log's.
    """
    bodies = [line.body for line in lines]
    first = next((body["charges"] for body in bodies if "charges" in body), statement.book.length)
    logged = {body["session"] for body in bodies if "session" in body}
    charges = [_content(each) for each in statement.entries if each.note.kind in ("charge", "charges")]
    return tuple(dict.fromkeys(each["transcript"] for each in charges[first:] if each["transcript"] not in logged))


def as_json(statement: Statement, site: str) -> bytes:
    """Return all entries as a JSON document."""
    entries = [
        {
            "sequence": each.sequence,
            "at": iso(each.at_unix_s),
            "kind": each.note.kind,
            "content": _content(each),
            "tag": each.tag.hex(),
        }
        for each in statement.entries
    ]
    return json.dumps({"format": FORMAT, "site": site, "entries": entries}, indent=1).encode() + b"\n"


def as_csv(statement: Statement) -> bytes:
    """Return all entries as a table: a charge's parts each in a column, and every entry's content as it was written."""
    text = io.StringIO(newline="")
    columns = (*COLUMNS, *COLUMNS_AFTER)
    table = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(_row(each) for each in statement.entries)
    return text.getvalue().encode()


def _row(entry: Entry) -> dict[str, Any]:
    steps = {"steps": 1} if entry.note.kind == "charge" else {}
    own = {"sequence": entry.sequence, "at": iso(entry.at_unix_s), "kind": entry.note.kind}
    return {**_content(entry), **steps, **own, "content": entry.note.content, "tag": entry.tag.hex()}


def _content(entry: Entry) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(entry.note.content)
    return content


def iso(at_unix_s: int) -> str:
    """Return a time as people read it, in UTC."""
    return datetime.fromtimestamp(at_unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def summary(account: Account) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
    """Return an account's rounds, reserved ones and noise as texts, one for each sum."""
    rounds, reserved = (
        [f"{kind} {count:,}" for kind, count in each.items()] for each in (account.rounds, account.reserved)
    )
    noise = [f"{kind} {', '.join(f'{each:.4g}' for each in levels)}" for kind, levels in account.noise.items()]
    return rounds, reserved, noise
