"""What a ledger holds: entries as text, the tags that chain them, and the book they add up to.

Never touches a file, and never adds up an entry whose tag its caller has not checked.
"""

import hmac
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from synthfed.protocols.approval import NEVER
from synthfed.protocols.ids import digest
from synthfed.protocols.privacy.accountant import SampledGaussian
from synthfed.protocols.secagg.keys import KEY_BYTES, identity_secret

from .reservation import Costs, Reservation

GENESIS: Final = bytes(32)
"""What stands for the tag before the first."""

DAY_S: Final = 24 * 3600
YEAR_S: Final = 365 * DAY_S

_UNCHECKED: Final = frozenset(("block", "release", "rotation"))
"""Kinds that are written whatever the clock says: after one of them a leap must still be told from a year."""

Price = tuple[str, float, float, int]
"""A sum's name, and sample rate, noise multiplier and number of steps of a round of it."""


@dataclass(frozen=True, slots=True)
class Charge:
    """One step as the ledger knows it.

    Attributes:
        study: hash of the study's terms.
        study_name: for people.
        kind: name of the sum.
        transcript: hash that names the session.
        counter: the step's counter in the session.
        context: hash of everything the step was asked with.
        event: what it costs; its count is that of the round's local steps.
    """

    study: bytes
    study_name: str
    kind: str
    transcript: bytes
    counter: int
    context: bytes
    event: SampledGaussian


@dataclass(frozen=True, slots=True)
class Note:
    """An entry before it has its place: what kind it is, and its content as text.

    Attributes:
        kind: charge, charges, outcome, clearance, peers, block, reserve, release, dataset, converted or rotation.
        content: a JSON object; the tag covers these very characters, whatever other spelling would mean the same.
    """

    kind: str
    content: str


def charged(charge: Charge) -> Note:
    """Return the entry of a charge; Python writes a float so that reading it gives the same bits.

    A round of several local steps has a kind of its own: a version that would count it as one refuses the ledger.
    """
    steps = charge.event.count
    return _note(
        "charge" if steps == 1 else "charges",
        study=charge.study.hex(),
        study_name=charge.study_name,
        sum=charge.kind,
        transcript=charge.transcript.hex(),
        counter=charge.counter,
        context=charge.context.hex(),
        sample_rate=charge.event.sample_rate,
        noise_multiplier=charge.event.noise_multiplier,
        **({} if steps == 1 else {"steps": steps}),
    )


def settled(charge: int, outcome: str) -> Note:
    """Return the entry that says what became of the charge of this number."""
    return _note("outcome", charge=charge, outcome=outcome)


def cleared() -> Note:
    """Return the entry that says that a person has looked."""
    return _note("clearance")


def met(lengths: dict[str, int]) -> Note:
    """Return the entry of peers' journal lengths, by identity key in hexadecimal."""
    return _note("peers", lengths=lengths)


def blocked(study: bytes, at_unix_s: int) -> Note:
    """Return the entry that remembers a rejection or withdrawal of a study, with the time its signature covers.

    A version that would not heed it refuses the ledger.
    """
    return _note("block", study=study.hex(), at_unix_s=at_unix_s)


def reserved(reservation: Reservation) -> Note:
    """Return the entry that keeps what a study may spend; a version that would give it to another study refuses it."""
    return _note("reserve", **reservation.content)


def released(study: bytes, at_unix_s: int) -> Note:
    """Return the entry that gives back what a study has not used; no approval up to that time counts any more."""
    return _note("release", study=study.hex(), at_unix_s=at_unix_s)


def loaded(ledger: str, fingerprint: str) -> Note:
    """Return the entry that notes from which data set records are taken from here on.

    Args:
        ledger: the ledger's name, the same in all such entries.
        fingerprint: of the data set, under a key of the site's.
    """
    return _note("dataset", ledger=ledger, fingerprint=fingerprint)


def converted(charges: int) -> Note:
    """Return the entry that ends what was taken over from a ledger of format 1, with its number of charges."""
    return _note("converted", charges=charges)


def _note(kind: str, **content: object) -> Note:
    return Note(kind, json.dumps(content, sort_keys=True, separators=(",", ":")))


def chain_key(identity: Ed25519PrivateKey) -> bytes:
    """Return the key of a site's chain, 32 bytes: without the identity nobody can write an entry that holds."""
    return HKDF(hashes.SHA256(), KEY_BYTES, None, b"synthfed/1/ledger").derive(identity_secret(identity))


def seal(key: bytes, previous: bytes, sequence: int, at_unix_s: int, note: Note) -> bytes:
    """Return an entry's tag, 32 bytes: HMAC-SHA256 over its place, time and content, and all entries before it.

    Args:
        key: of the chain.
        previous: the tag before, ``GENESIS`` for the first.
        sequence: the entry's place, from 1.
        at_unix_s: when it was written.
        note: the entry; whatever types an edited file gave its parts.
    """
    # str() because a table rebuilt by an editor may hold other types; they make another tag, not an error.
    parts = (str(sequence), str(at_unix_s), str(note.kind), str(note.content))
    message = digest("ledger-entry-2", previous, *(part.encode() for part in parts))
    return hmac.digest(key, message, "sha256")


def mark(key: bytes, length: int, tip: bytes) -> bytes:
    """Return what is noted beside a chain of this length and last tag, 32 bytes.

    It stands nowhere in the chain: who cuts that without the key cannot note an earlier place.
    """
    return hmac.digest(key, digest("ledger-head", length.to_bytes(8, "little"), tip), "sha256")


@dataclass(slots=True)
class Book:
    """What all entries add up to. Decisions rest on it and not on the file, which could change behind the agent.

    Attributes:
        length: how many charges there are.
        head: tag of the last charge. With the length it is all that others are told: a tag of a later entry would
            tell them that there was one, and what became of a step can depend on records.
        rounds: how often each sum of each study was charged, by the study's hash and the sum's name, ...
        prices: ... and what a round of it cost: every sample rate, noise multiplier and number of steps charged.
        costs: how many steps were charged of each kind of cost, ...
        by_study: ... in each study, ...
        by_day: ... and on each day since 1970. A charge's day is never before that of an entry before it: a clock
            that was set back makes no charge look older.
        latest_s: the latest time of any entry, in seconds since 1970.
        last_s: the time of the last one that is a witness of the clock; it is earlier where that was set back since.
        unsettled: numbers of the charges without an outcome.
        overruns: steps given up since a person last looked.
        failures: steps that failed on records since a person last looked.
        floors: the longest journal that each peer has stated, by its identity key in hexadecimal.
        blocks: when each study was last rejected, withdrawn or released, by its hash.
        reserved: what is kept for each study, by its hash; nothing of one that was blocked or released since.
        ledger: the ledger's name, by which the register of data sets knows it; empty before the first was loaded.
        dataset: the keyed fingerprint of the data set that was loaded last, empty before the first.
    """

    length: int = 0
    head: bytes = GENESIS
    rounds: Counter[tuple[bytes, str]] = field(default_factory=Counter)
    prices: dict[bytes, set[Price]] = field(default_factory=dict)
    costs: Costs = field(default_factory=Counter)
    by_study: dict[bytes, Costs] = field(default_factory=dict)
    by_day: dict[int, Costs] = field(default_factory=dict)
    latest_s: int = 0
    last_s: int = 0
    unsettled: set[int] = field(default_factory=set)
    overruns: int = 0
    failures: int = 0
    floors: dict[str, int] = field(default_factory=dict)
    blocks: dict[bytes, int] = field(default_factory=dict)
    reserved: dict[bytes, Reservation] = field(default_factory=dict)
    ledger: str = ""
    dataset: str = ""

    def add(self, note: Note, tag: bytes, at_unix_s: int) -> None:
        """Add an entry that holds, with the time at which it was written.

        Raises:
            ValueError: it is of a kind that this version does not know.
        """
        content: dict[str, Any] = json.loads(note.content)
        self.latest_s = max(self.latest_s, at_unix_s)
        if note.kind not in _UNCHECKED:
            self.last_s = at_unix_s
        match note.kind:
            case "charge" | "charges":
                self.length, self.head = self.length + 1, tag
                study, cost = bytes.fromhex(content["study"]), (content["sample_rate"], content["noise_multiplier"])
                self.rounds[study, content["sum"]] += 1
                steps = content["steps"] if note.kind == "charges" else 1
                self.prices.setdefault(study, set()).add((content["sum"], *cost, steps))
                days = self.by_day.setdefault(self.latest_s // DAY_S, Counter())
                for costs in (self.costs, self.by_study.setdefault(study, Counter()), days):
                    costs[cost] += steps
                self.unsettled.add(self.length)
            case "outcome":
                self.unsettled.discard(content["charge"])
                self.overruns += content["outcome"] == "abandoned"
                self.failures += content["outcome"] == "failed"
            case "clearance":
                self.overruns = self.failures = 0
            case "peers":
                for peer, length in content["lengths"].items():
                    self.floors[peer] = max(length, self.floors.get(peer, 0))
            case "block" | "release":
                study = bytes.fromhex(content["study"])
                self.blocks[study] = max(content["at_unix_s"], self.blocks.get(study, NEVER))
                self.reserved.pop(study, None)
            case "reserve":
                reservation = Reservation.read(content)
                self.reserved[reservation.study] = reservation
            case "dataset":
                self.ledger, self.dataset = content["ledger"], content["fingerprint"]
            case "converted" | "rotation":
                pass  # nothing is added up of it; under which key an entry stands was settled before
            case _:
                raise ValueError(note.kind)

    def events(self) -> list[SampledGaussian]:
        """Return every charge of every study, equal ones counted together."""
        return events_of(self.costs)

    def costs_of(self, study: bytes) -> Costs:
        """Return every charge of one study."""
        return self.by_study.get(study, Counter())

    def recent_costs(self, now_unix_s: int) -> Costs:
        """Return every charge of the last 365 days and the rest of the day before.

        What lies in the future counts: a clock that was ahead, and was set right, frees nothing.
        """
        first = (now_unix_s - YEAR_S) // DAY_S
        return sum((costs for day, costs in self.by_day.items() if day >= first), Counter())

    def kept_for(self, study: bytes) -> Costs:
        """Return what is reserved for a study and was not charged yet."""
        reservation = self.reserved.get(study)
        return reservation.left(self.rounds) if reservation else Counter()

    def kept_for_others(self, study: bytes | None = None) -> Costs:
        """Return what is reserved for all studies but one and was not charged yet."""
        return sum((self.kept_for(each) for each in self.reserved if each != study), Counter())

    def leap_s(self, now_unix_s: int) -> int:
        """Return by how much a time is after `last_s`, if a charge would grow older than a year by that; or 0.

        Args:
            now_unix_s: what the clock says.
        """
        has_freed = self.recent_costs(self.last_s) != self.recent_costs(max(now_unix_s, self.last_s))
        return now_unix_s - self.last_s if has_freed else 0


def events_of(costs: Costs) -> list[SampledGaussian]:
    """Return costs as the accountant takes them, in an order of their own."""
    return [SampledGaussian(rate, noise, count) for (rate, noise), count in sorted(costs.items())]
