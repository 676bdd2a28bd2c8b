"""Honest sessions of four sites, one for each suite, from fixed bytes: what the scenarios that must fail depart from.

The site under test has the last name: it encapsulates to nobody, so all it says follows from these bytes. What the
others encapsulate is drawn by the library and cannot be fixed; it was drawn once and is stored in `ciphertexts.json`.
"""

import json
from dataclasses import replace
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.vectors.generate import CODE, FOLDER, KINDS, SEQUENCE, STUDY, ephemeral, policy_of

from synthfed.protocols.secagg import keys
from synthfed.protocols.secagg.masks import apply_masks
from synthfed.protocols.secagg.messages import (
    CANARY_WORDS,
    Confirm,
    Hello,
    Masked,
    Message,
    Open,
    Ready,
    Roll,
    Round,
    Seal,
    encode,
)
from synthfed.protocols.secagg.ring import to_words
from synthfed.protocols.study import parse_study

FORMAT: Final = 1
SITES: Final = ("alps", "east-2", "north", "south")
SITE: Final = "south"
SESSION: Final = b"\x5e" * 32
ENTROPY: Final = b"\x88" * 32
JOURNAL_HEAD: Final = b"\x06" * 32
JOURNAL_LENGTH: Final = 5
IDENTITIES: Final = {
    "alps": b"\xa1" * 32,
    "east-2": b"\xe2" * 32,
    "north": bytes(32),
    "south": bytes(range(32)),
}
"""Ed25519 private keys; those of north and south are behind the public keys in the sample of terms."""
EPHEMERAL: Final = {name: (bytes([16 + at]) * 32, bytes([32 + at]) * 64) for at, name in enumerate(SITES)}
"""X25519 private keys and ML-KEM seeds."""

EAST_KEY: Final = "yRyzziuE5LqF9WLs5B7f5OJ6/FLYjVB/ZqGGON+CPp8="
ALPS_KEY: Final = "vHy8tWNjdfodgkNNRmck2SN39TuYBpXdSdJtDOEiBaU="
TERMS: Final = STUDY.replace(
    'id = "east-2"\n', f'id = "east-2"\nkey = "{EAST_KEY}"\n[[cohort.sites]]\nid = "alps"\nkey = "{ALPS_KEY}"\n'
)
CLASSIC_TERMS: Final = TERMS.replace('"distributed"', '"local"').replace(
    "[cohort]\n", '[aggregation]\nkey_agreement = "x25519"\n[cohort]\n'
)
STEPS: Final = replace(KINDS[0], sum=replace(KINDS[0].sum, dim=6, payload=(("w", (2, 3)),)))
PAYLOAD: Final = np.array([0, 1, -1.5, 10_000, -10_000, 1e-9], dtype="<f4").tobytes()
ROUND: Final = Round(1, SITES, "steps", PAYLOAD)
VALUES: Final = {name: np.arange(6, dtype=np.int64) * (at - 2) for at, name in enumerate(SITES)}
"""What each site would add up, noise included."""

_S = TypeVar("_S", Hello, Confirm, Masked)


def identity(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(IDENTITIES[name])


def ciphertexts() -> dict[tuple[str, str], bytes]:
    """Return what each site encapsulates to each later name: inputs like the keys, from `keys.encapsulate` once."""
    stored = json.loads((FOLDER / "ciphertexts.json").read_text(encoding="ascii"))
    return {(pair["from"], pair["to"]): bytes.fromhex(pair["ciphertext"]) for pair in stored["pairs"]}


CIPHERTEXTS: Final = ciphertexts()


class Session:
    """What every party says in an honest session under some terms, and what it would say otherwise, signed by it."""

    def __init__(self, terms: str) -> None:
        self.terms = terms
        self.policy = policy_of(parse_study(terms, where="vectors"), (STEPS, KINDS[1]))
        self.hellos = {name: self.hello(name) for name in SITES}
        self.roll = Roll(tuple(self.hellos.values()))
        self.transcript = self.roll.transcript(self.policy.hash)
        self.confirms = {name: self.confirm(name) for name in SITES}
        self.seal = Seal(tuple(self.confirms.values()))
        self.maskeds = {name: self.masked(name, VALUES[name]) for name in SITES}

    def signed(self, message: _S, by: str) -> _S:
        """Return the message with the signature of a site, which need not be its sender."""
        if isinstance(message, Hello):
            content = message.signed(self.policy.hash)
        else:
            content = message.signed() if isinstance(message, Confirm) else message.signed(by)
        return replace(message, signature=keys.sign(identity(by), content))

    def hello(self, name: str, **changes: Any) -> Hello:
        """Return a site's Hello, changed as said and then signed by it."""
        x25519, kem = self._ephemeral(name).public
        nonce = bytes([48 + SITES.index(name)]) * 32
        unsigned = Hello(name, SESSION, x25519, kem, nonce, JOURNAL_LENGTH, JOURNAL_HEAD, b"")
        return self.signed(replace(unsigned, **changes), name)

    def confirm(self, name: str, **changes: Any) -> Confirm:
        """Return a site's Confirm, changed as said and then signed by it."""
        sent = tuple((other, CIPHERTEXTS[name, other]) for other in self.policy.suite.receivers(name, SITES))
        return self.signed(replace(Confirm(name, self.transcript, sent, b""), **changes), name)

    def masked(self, name: str, values: npt.NDArray[np.int64], ones: int = 1, **changes: Any) -> Masked:
        """Return a site's answer to the round: masked by the formula of the protocol page, changed, then signed."""
        context = ROUND.context(self.transcript)
        words, canary = to_words(values, 32), to_words(np.full(CANARY_WORDS, ones, dtype=np.int64), 32)
        for peer in SITES:
            if peer != name:
                pair = self._ratchet(name, peer)
                pair.advance(ROUND.counter)
                apply_masks(words, [(pair.derive("mask", context), peer > name)])
                apply_masks(canary, [(pair.derive("canary", context), peer > name)])
        return self.signed(replace(Masked(context, words.tobytes(), canary.tobytes(), b""), **changes), name)

    def described(self) -> dict[str, Any]:
        """Return the whole session: what each party starts from, and every frame in the order they are sent."""
        frames: dict[str, Message] = {"open": Open(SESSION)}
        frames |= {f"hello {name}": message for name, message in self.hellos.items()}
        frames |= {"roll": self.roll, **{f"confirm {name}": message for name, message in self.confirms.items()}}
        frames |= {"seal": self.seal, "ready": Ready(), "round": ROUND}
        frames |= {f"masked {name}": message for name, message in self.maskeds.items()}
        return {
            "format": FORMAT,
            "study": self.terms,
            "kinds": [kind.declaration() for kind in self.policy.plan.kinds],
            "code": CODE.hex(),
            "policy": self.policy.hash.hex(),
            "site": {
                "name": SITE,
                "identity_private": IDENTITIES[SITE].hex(),
                "x25519_private": EPHEMERAL[SITE][0].hex(),
                "kem_seed": EPHEMERAL[SITE][1].hex() if self.policy.suite.has_kem else "",
                "nonce": self.hellos[SITE].nonce.hex(),
                "entropy": ENTROPY.hex(),
                "journal_length": JOURNAL_LENGTH,
                "journal_head": JOURNAL_HEAD.hex(),
                "values": VALUES[SITE].tolist(),
            },
            "session": SESSION.hex(),
            "transcript": self.transcript.hex(),
            "context": ROUND.context(self.transcript).hex(),
            "sum": sum(VALUES.values(), np.zeros(6, dtype=np.int64)).tolist(),
            "frames": {name: hexadecimal(message) for name, message in frames.items()},
        }

    def _ephemeral(self, name: str) -> keys.Ephemeral:
        x25519, seed = EPHEMERAL[name]
        return ephemeral(x25519, seed if self.policy.suite.has_kem else b"")

    def _ratchet(self, name: str, peer: str) -> keys.Ratchet:
        """Return the ratchet of a pair, as the one with the later name computes it."""
        first, last = sorted((name, peer))
        own, secret, ciphertext = self._ephemeral(last), b"", b""
        if self.policy.suite.has_kem:
            ciphertext = CIPHERTEXTS[first, last]
            secret = keys.decapsulate(own, ciphertext, peer=first)
        theirs, info = self.hellos[first].x25519, f"{first}|{last}".encode() + ciphertext
        pair = keys.pair_key(self.policy.suite, own, theirs, secret, self.transcript, info, peer=first)
        return keys.Ratchet(pair)


def hexadecimal(message: Message) -> str:
    """Return a message's frame."""
    return encode(message, SEQUENCE).hex()


HYBRID: Final = Session(TERMS)
CLASSIC: Final = Session(CLASSIC_TERMS)
SESSIONS: Final = {"session": HYBRID, "session-x25519": CLASSIC}
"""By the name of their file."""
