"""The messages of secure aggregation, each a frozen value with one canonical encoding.

Never carries a record, a sample's size or an unmasked sum.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, NamedTuple

from ..cohort import MAX_SITES
from ..errors import RemoteProtocolError
from ..ids import SITE_ID, digest
from ..wire import Frame, Reader, Writer
from .suites import KEM_CIPHERTEXT_BYTES, KEM_KEY_BYTES

HASH_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
X25519_BYTES: Final = 32
CANARY_WORDS: Final = 8
PROBE_BITS: Final = 32  # width of a probe's words


class Code(IntEnum):
    """Why a site refuses: one code for every failed check, so that a refusal tells nothing else."""

    PROTOCOL = 1
    BUDGET = 2
    ABANDONED = 3
    STOPPED = 4


@dataclass(frozen=True, slots=True)
class Open:
    """Coordinator to site: a new session begins (message S1)."""

    session: bytes


@dataclass(frozen=True, slots=True)
class Hello:
    """Site to coordinator: fresh keys for this session (``kem`` may be empty), and its journal's state."""

    site: str
    session: bytes
    x25519: bytes
    kem: bytes
    nonce: bytes
    journal_length: int
    journal_head: bytes
    signature: bytes

    def signed(self, policy_hash: bytes) -> bytes:
        """Return what the site's identity key signs."""
        return digest("hello", policy_hash, _unsigned(self).finish())


@dataclass(frozen=True, slots=True)
class Roll:
    """Coordinator to site: the Hellos of everyone who takes part (message S2)."""

    hellos: tuple[Hello, ...]

    def transcript(self, policy_hash: bytes) -> bytes:
        """Return the hash that names this set of keys, whatever the order of the Hellos."""
        ordered = sorted(self.hellos, key=lambda hello: hello.site)
        return digest("transcript", policy_hash, *(_write_hello(hello) for hello in ordered))


@dataclass(frozen=True, slots=True)
class Confirm:
    """Site to coordinator: the transcript as the site sees it, and its suite's KEM ciphertexts for later names."""

    site: str
    transcript: bytes
    ciphertexts: tuple[tuple[str, bytes], ...]
    signature: bytes

    @property
    def receivers(self) -> tuple[str, ...]:
        """To whom there is a ciphertext, in the order of the message."""
        return tuple(site for site, _ in self.ciphertexts)

    def signed(self) -> bytes:
        """Return what the site's identity key signs."""
        return digest("confirm", self.transcript, _write_ciphertexts(self.ciphertexts), self.site.encode())


@dataclass(frozen=True, slots=True)
class Seal:
    """Coordinator to site: everyone's confirmation (message S3)."""

    confirms: tuple[Confirm, ...]


@dataclass(frozen=True, slots=True)
class Ready:
    """Site to coordinator: the session's keys are agreed."""


@dataclass(frozen=True, slots=True)
class Round:
    """Coordinator to site: one private sum over the cohort, with the payload it is computed from."""

    counter: int
    cohort: tuple[str, ...]
    kind: str
    payload: bytes

    def context(self, transcript: bytes) -> bytes:
        """Return the hash that binds masks to everything a site was told about this round."""
        cohort = Writer()
        for site in self.cohort:
            cohort.text(site)
        return digest(
            "context",
            transcript,
            self.counter.to_bytes(8, "little"),
            cohort.finish(),
            self.kind.encode(),
            digest("payload", self.payload),
        )


@dataclass(frozen=True, slots=True)
class Masked:
    """Site to coordinator: its noised, masked sum, little-endian ring words, and masked canaries."""

    context: bytes
    words: bytes
    canary: bytes
    signature: bytes

    def signed(self, site: str) -> bytes:
        """Return what the site's identity key signs."""
        return digest("masked", self.context, site.encode(), digest("words", self.words), self.canary)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Site to coordinator: no, with a code and nothing else."""

    code: Code


Request = Open | Roll | Seal | Round  # what a coordinator sends

Message = Request | Hello | Confirm | Ready | Masked | Refusal


def encode(message: Message, sequence: int) -> bytes:
    """Return the message as one frame."""
    form = _FORMATS[type(message)]
    return Frame(form.number, sequence, form.write(message)).encode()


def decode(data: bytes) -> tuple[Message, int]:
    """Return the message and sequence number of one frame.

    Raises:
        RemoteProtocolError: anything but the canonical encoding of a known message.
    """
    frame = Frame.decode(data)
    reading = _READERS.get(frame.type)
    if reading is None:
        raise RemoteProtocolError(f"message type {frame.type} is not known")
    reader = Reader(frame.body)
    message = reading(reader)
    reader.finish()
    return message, frame.sequence


def _site(reader: Reader) -> str:
    name = reader.text()
    if not SITE_ID.fullmatch(name):
        raise RemoteProtocolError("a site name is malformed")
    return name


def _count(reader: Reader) -> int:
    count = reader.number()
    if count > MAX_SITES:
        raise RemoteProtocolError("a list of sites is too long")
    return count


def _length(reader: Reader) -> int:
    """Return a journal's length; a signed 64-bit integer, as the ledger that remembers it holds."""
    length = reader.number()
    if length >= 1 << 63:
        raise RemoteProtocolError("a journal's length is beyond any ledger's")
    return length


def _unsigned(hello: Hello) -> Writer:
    writer = Writer().text(hello.site).data(hello.session).data(hello.x25519).data(hello.kem).data(hello.nonce)
    return writer.number(hello.journal_length).data(hello.journal_head)


def _write_hello(hello: Hello) -> bytes:
    return _unsigned(hello).data(hello.signature).finish()


def _read_hello(reader: Reader) -> Hello:
    return Hello(
        site=_site(reader),
        session=reader.data(HASH_BYTES),
        x25519=reader.data(X25519_BYTES),
        kem=reader.data(0, KEM_KEY_BYTES),  # which of them is right, the policy says
        nonce=reader.data(HASH_BYTES),
        journal_length=_length(reader),
        journal_head=reader.data(HASH_BYTES),
        signature=reader.data(SIGNATURE_BYTES),
    )


def _write_ciphertexts(ciphertexts: tuple[tuple[str, bytes], ...]) -> bytes:
    writer = Writer().number(len(ciphertexts))
    for site, ciphertext in ciphertexts:
        writer.text(site).data(ciphertext)
    return writer.finish()


def _write_confirm(confirm: Confirm) -> bytes:
    writer = Writer().text(confirm.site).data(confirm.transcript)
    return writer.finish() + _write_ciphertexts(confirm.ciphertexts) + Writer().data(confirm.signature).finish()


def _read_confirm(reader: Reader) -> Confirm:
    return Confirm(
        site=_site(reader),
        transcript=reader.data(HASH_BYTES),
        ciphertexts=tuple((_site(reader), reader.data(KEM_CIPHERTEXT_BYTES)) for _ in range(_count(reader))),
        signature=reader.data(SIGNATURE_BYTES),
    )


def _write_round(message: Round) -> bytes:
    writer = Writer().number(message.counter).number(len(message.cohort))
    for site in message.cohort:
        writer.text(site)
    return writer.text(message.kind).data(message.payload).finish()


def _read_round(reader: Reader) -> Round:
    return Round(
        counter=reader.number(),
        cohort=tuple(_site(reader) for _ in range(_count(reader))),
        kind=reader.text(),
        payload=reader.data(),
    )


def _write_masked(masked: Masked) -> bytes:
    return Writer().data(masked.context).data(masked.words).data(masked.canary).data(masked.signature).finish()


def _read_masked(reader: Reader) -> Masked:
    return Masked(
        context=reader.data(HASH_BYTES),
        words=reader.data(),
        canary=reader.data(limit=8 * CANARY_WORDS),
        signature=reader.data(SIGNATURE_BYTES),
    )


def _read_refusal(reader: Reader) -> Refusal:
    try:
        return Refusal(Code(reader.number()))
    except ValueError:
        raise RemoteProtocolError("a refusal carries an unknown code") from None


def _write_roll(roll: Roll) -> bytes:
    return Writer().number(len(roll.hellos)).finish() + b"".join(_write_hello(hello) for hello in roll.hellos)


def _write_seal(seal: Seal) -> bytes:
    return Writer().number(len(seal.confirms)).finish() + b"".join(_write_confirm(each) for each in seal.confirms)


class _Format(NamedTuple):
    number: int
    write: Callable[[Any], bytes]
    read: Callable[[Reader], Message]


# Numbers are never given a second meaning; a new message takes a new number.
_FORMATS: Final[Mapping[type, _Format]] = {
    Open: _Format(1, lambda m: Writer().data(m.session).finish(), lambda r: Open(r.data(HASH_BYTES))),
    Hello: _Format(2, _write_hello, _read_hello),
    Roll: _Format(3, _write_roll, lambda r: Roll(tuple(_read_hello(r) for _ in range(_count(r))))),
    Confirm: _Format(4, _write_confirm, _read_confirm),
    Seal: _Format(5, _write_seal, lambda r: Seal(tuple(_read_confirm(r) for _ in range(_count(r))))),
    Ready: _Format(6, lambda _: b"", lambda _: Ready()),
    Round: _Format(7, _write_round, _read_round),
    Masked: _Format(8, _write_masked, _read_masked),
    Refusal: _Format(9, lambda m: Writer().number(int(m.code)).finish(), _read_refusal),
}
_READERS: Final = {form.number: form.read for form in _FORMATS.values()}
