"""What each message may hold: for every field a value that anybody could work out, or a length; and a recorder.

Never reads a record: everything is worked out from the terms and from what the coordinator sent.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from synthfed.protocols.secagg import messages
from synthfed.protocols.secagg.policy import Policy
from synthfed.protocols.secagg.suites import KEM_CIPHERTEXT_BYTES, KEM_KEY_BYTES
from synthfed.protocols.sums import PROBE


@dataclass(frozen=True, slots=True)
class Size:
    """A field whose content is random, or random to all without a key: only its length in bytes is declared."""

    count: int


@dataclass(frozen=True, slots=True)
class OneOf:
    """A field that may have a few values."""

    values: frozenset[Any]


@dataclass(slots=True)
class Sitting:
    """What everybody knows of one site: the terms, and what it was sent before."""

    policy: Policy
    site: str
    request: Any = None
    roll: messages.Roll | None = None
    round: messages.Round | None = None
    charges: int = 0
    counters: set[tuple[bytes, int]] = field(default_factory=set)

    def hear(self, request: messages.Message) -> None:
        self.request = request
        match request:
            case messages.Roll():
                self.roll = request
            case messages.Round():
                self.round = request

    def answered(self, reply: messages.Message) -> None:
        """Count a charge: a round that was answered with a sum, but not when its very bytes were asked for again."""
        if isinstance(reply, messages.Masked) and self.round is not None and self.round.kind != PROBE:
            self.counters.add((self.transcript, self.round.counter))
            self.charges = len(self.counters)

    @property
    def transcript(self) -> bytes:
        return b"" if self.roll is None else self.roll.transcript(self.policy.hash)

    @property
    def members(self) -> tuple[str, ...]:
        return () if self.roll is None else tuple(sorted(hello.site for hello in self.roll.hellos))

    @property
    def cohort(self) -> tuple[str, ...]:
        return () if self.round is None else self.round.cohort

    @property
    def context(self) -> bytes:
        return b"" if self.round is None else self.round.context(self.transcript)

    def words(self) -> Size:
        """The masked sum: the length is planned, and there is none in a probe."""
        kind = None if self.round is None else self.policy.plan.kind(self.round.kind)
        return Size(kind.answer_bytes if kind else 0)

    def canary(self) -> Size:
        kind = None if self.round is None else self.policy.plan.kind(self.round.kind)
        return Size(messages.CANARY_WORDS * (kind.ring_bits if kind else messages.PROBE_BITS) // 8)

    def kinds(self) -> OneOf:
        return OneOf(frozenset({PROBE, *(kind.sum.name for kind in self.policy.plan.kinds)}))

    def payload(self) -> Size:
        kind = self.policy.plan.kind(self.request.kind)
        return Size(kind.payload_bytes if kind else 0)


SIGNATURE: Final = Size(messages.SIGNATURE_BYTES)
HASH: Final = Size(messages.HASH_BYTES)

Declared = Callable[[Sitting], Any]

TO_SITE: Final[Mapping[type, Mapping[str, Declared]]] = {
    messages.Open: {"session": lambda _: HASH},
    messages.Roll: {"hellos": lambda s: _many(messages.Hello, len(s.members))},
    messages.Seal: {"confirms": lambda s: _many(messages.Confirm, len(s.members))},
    messages.Round: {
        "counter": lambda _: OneOf(frozenset(range(1, 2**20))),
        "cohort": lambda s: s.members,
        "kind": lambda s: s.kinds(),
        "payload": lambda s: s.payload(),
    },
    messages.Reveal: {"context": lambda s: s.context},
}
TO_COORDINATOR: Final[Mapping[type, Mapping[str, Declared]]] = {
    messages.Hello: {
        "site": lambda s: s.site,
        "session": lambda s: s.request.session,
        "x25519": lambda _: Size(messages.X25519_BYTES),
        "kem": lambda s: Size(KEM_KEY_BYTES if s.policy.suite.has_kem else 0),
        "nonce": lambda _: HASH,
        "journal_length": lambda s: s.charges,
        "journal_head": lambda _: HASH,
        "signature": lambda _: SIGNATURE,
    },
    messages.Confirm: {
        "site": lambda s: s.site,
        "transcript": lambda s: s.transcript,
        "ciphertexts": lambda s: tuple(
            (site, Size(KEM_CIPHERTEXT_BYTES)) for site in s.policy.suite.receivers(s.site, s.members)
        ),
        "signature": lambda _: SIGNATURE,
    },
    messages.Ready: {},
    messages.Masked: {
        "context": lambda s: s.context,
        "words": lambda s: s.words(),
        "canary": lambda s: s.canary(),
        "signature": lambda _: SIGNATURE,
    },
    messages.Refusal: {"code": lambda _: OneOf(frozenset(messages.Code))},
    messages.Revealed: {
        "context": lambda s: s.context,
        "keys": lambda s: tuple((site, Size(messages.CANARY_KEY_BYTES)) for site in s.cohort if site != s.site),
        "signature": lambda _: SIGNATURE,
    },
}
ANSWERS: Final[Mapping[type, type]] = {
    messages.Open: messages.Hello,
    messages.Roll: messages.Confirm,
    messages.Seal: messages.Ready,
    messages.Round: messages.Masked,
    messages.Reveal: messages.Revealed,
}
"""What each request is answered with, where it is not refused."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One frame to a site and what came back."""

    site: str
    request: bytes
    reply: bytes

    @property
    def form(self) -> tuple[str, str, int, str, int]:
        """Kinds and lengths: all that anybody without a key sees of it but random bytes."""
        request, reply = messages.decode(self.request)[0], messages.decode(self.reply)[0]
        return self.site, type(request).__name__, len(self.request), type(reply).__name__, len(self.reply)


def record(federation: Any) -> list[Exchange]:
    """Return a list to which every frame from and to the federation's sites is added from now on."""
    exchanges: list[Exchange] = []

    def recorded(site: str, answer: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        def pass_on(frame: bytes) -> bytes:
            reply = answer(frame)
            exchanges.append(Exchange(site, bytes(frame), bytes(reply)))
            return reply

        return pass_on

    for site, answer in list(federation.answers.items()):
        federation.answers[site] = recorded(site, answer)
    federation.reconnect()
    return exchanges


def check(exchanges: list[Exchange], policy: Policy) -> None:
    """Hold every recorded frame against its declaration; AssertionError names message and field."""
    sittings = {site: Sitting(policy, site) for site in policy.study.cohort.roster}
    for each in exchanges:
        sitting = sittings[each.site]
        request, number = messages.decode(each.request)
        sitting.hear(request)
        _check_message(request, TO_SITE, sitting)
        reply, echoed = messages.decode(each.reply)
        assert echoed == number, "a sequence number is the coordinator's"
        assert type(reply) in (ANSWERS[type(request)], messages.Refusal), f"{type(reply).__name__} to {request}"
        _check_message(reply, TO_COORDINATOR, sitting)
        sitting.answered(reply)
        # An encoding is canonical, so that nothing lies between fields or after the last one.
        assert messages.encode(reply, number) == each.reply


def _check_message(message: Any, direction: Mapping[type, Mapping[str, Declared]], sitting: Sitting) -> None:
    declared = direction[type(message)]
    for name in (each.name for each in fields(message)):
        value, wanted = getattr(message, name), declared[name](sitting)
        assert _fits(value, wanted), f"{sitting.site}: {type(message).__name__}.{name} is not as declared: {wanted}"


def _many(kind: type, count: int) -> Callable[[Any], bool]:
    return lambda value: len(value) == count and all(type(each) is kind for each in value)


def _fits(value: Any, wanted: Any) -> bool:
    match wanted:
        case Size(count):
            return isinstance(value, bytes | memoryview) and len(value) == count
        case OneOf(values):
            return value in values
        case tuple() if isinstance(value, tuple):
            return len(value) == len(wanted) and all(map(_fits, value, wanted))
    return bool(wanted(value)) if callable(wanted) else bool(value == wanted)
