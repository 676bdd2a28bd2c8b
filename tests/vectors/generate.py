"""Writes the test vectors of the kernel beside itself: fixed inputs, and what every implementation must compute.

Bytes are hexadecimal. Run it only for a new version of a format: `python tests/vectors/generate.py`.
"""

import dataclasses
import json
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from synthfed.protocols.approval import Act, Decision, PluginPin, Subject
from synthfed.protocols.enrolment import Enrolment
from synthfed.protocols.keystream import KeyStream
from synthfed.protocols.privacy.noise import discrete_gaussian
from synthfed.protocols.privacy.plan import Plan
from synthfed.protocols.privacy.sampling import poisson_sample, uniform_below
from synthfed.protocols.proposal import Proposal
from synthfed.protocols.release_seal import ReleaseSeal
from synthfed.protocols.rotation import Rotation
from synthfed.protocols.secagg import keys
from synthfed.protocols.secagg.messages import (
    Code,
    Confirm,
    Hello,
    Masked,
    Message,
    Open,
    Ready,
    Refusal,
    Reveal,
    Revealed,
    Roll,
    Round,
    Seal,
    encode,
)
from synthfed.protocols.secagg.policy import Policy
from synthfed.protocols.secagg.suites import SUITES
from synthfed.protocols.study import Study, parse_study
from synthfed.protocols.sums import Kind, Sum

FOLDER = Path(__file__).parent
SEQUENCE = 7
CODE = bytes(range(32))

STUDY = """\
format = 1
name = "vectors"
target = "ill"
[privacy]
mode = "distributed"
epsilon = 2
delta = 1e-6
unit = "person"
records_per_unit = 4
units_per_site = 1000
sample_rate = 0.1
steps = 10
[model]
plugin = "toy"
options = { width = 8, rate = 0.5, layers = [3, 2], label = "\u00e4" }
[cohort]
tolerated = 1
quorum = 3
epsilon_if_secagg_fails_at_most = 50.0
[[cohort.sites]]
id = "south"
key = "A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg="
[[cohort.sites]]
id = "north"
key = "O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ik="
controller = "trust"
[[cohort.sites]]
id = "east-2"
[[columns]]
kind = "categorical"
name = "ill"
values = ["yes", "no"]
[[columns]]
kind = "integer"
name = "visits"
lower = -3
upper = 90
scale = "log"
missing = true
[[columns]]
kind = "real"
name = "weight"
lower = 0
upper = 300.5
decimals = 1
"""

CONSTRAINED = (
    STUDY
    + """\
[[columns]]
kind = "integer"
name = "stays"
lower = 0
upper = 99
missing = true
[[columns]]
kind = "integer"
name = "days"
lower = 0
upper = 150
missing = true
[[columns]]
kind = "categorical"
name = "band"
values = ["light", "heavy"]
[[constraints]]
kind = "sum"
total = "days"
parts = ["visits", "stays"]
[[constraints]]
kind = "determines"
determinant = "ill"
determined = "band"
table = { yes = "heavy", no = "light" }
"""
)

BY_SITE = STUDY.replace('target = "ill"', 'target = "ill"\nsite_column = "place"')

KINDS = (
    Kind(Sum("steps", "gradient", 1000, 1.5, 0.1, 100, 1.0, (("w", (10, 100)),)), 1.25, 192, 32),
    Kind(Sum("counts", "statistic", 3, 1.0, 1.0, 1, 0.1), 4.5, 1024, 64),
)

HELLO = Hello("a", b"\x01" * 32, b"\x02" * 32, b"\x03" * 1184, b"\x04" * 32, 5, b"\x06" * 32, b"\x07" * 64)
OTHER_HELLO = dataclasses.replace(HELLO, site="b-2", x25519=b"\x12" * 32, journal_length=2**63 - 1)
CONFIRM = Confirm("a", b"\x08" * 32, (("b-2", b"\x09" * 1088),), b"\x0a" * 64)
ROUND = Round(9, ("a", "b-2"), "steps", b"payload")
MASKED = Masked(b"\x0c" * 32, b"\x0d" * 12, b"\x0e" * 32, b"\x0f" * 64)
REVEALED = Revealed(b"\x0c" * 32, (("b-2", b"\x21" * 32), ("c", b"\x22" * 32)), b"\x23" * 64)
MESSAGES: tuple[Message, ...] = (
    Open(b"\x01" * 32),
    HELLO,
    Roll((HELLO, OTHER_HELLO)),
    CONFIRM,
    Seal((CONFIRM, Confirm("b-2", b"\x08" * 32, (), b"\x0b" * 64))),
    Ready(),
    ROUND,
    MASKED,
    *[Refusal(code) for code in Code],
    dataclasses.replace(HELLO, kem=b""),  # of a suite without ML-KEM
    Roll(()),
    dataclasses.replace(CONFIRM, ciphertexts=()),
    dataclasses.replace(ROUND, cohort=(), payload=b""),
    dataclasses.replace(MASKED, words=b"", canary=b""),
    Reveal(b"\x0c" * 32),
    REVEALED,
    dataclasses.replace(REVEALED, keys=()),
)


def described(value: Any) -> Any:
    """Return a message as plain values: its type's name and fields, bytes in hexadecimal."""
    if dataclasses.is_dataclass(value):
        fields = {each.name: described(getattr(value, each.name)) for each in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, tuple):
        return [described(each) for each in value]
    if isinstance(value, IntEnum):
        return value.name
    return value.hex() if isinstance(value, bytes | memoryview) else value


def policy_of(study: Study, kinds: tuple[Kind, ...] = KINDS) -> Policy:
    """Return the policy of the vectors; its plan's epsilons do not enter the hash."""
    return Policy(study, Plan(kinds, 0.0, 0.0, ()), CODE)


def ephemeral(x25519: bytes, kem_seed: bytes) -> keys.Ephemeral:
    """Return a session's keys; an empty seed is that of a suite without ML-KEM-768."""
    kem = MLKEM768PrivateKey.from_seed_bytes(kem_seed) if kem_seed else None
    return keys.Ephemeral(X25519PrivateKey.from_private_bytes(x25519), kem)


def hashes() -> dict[str, Any]:
    """Return canonical terms and every hash that parties must compute alike."""
    study = parse_study(STUDY, where="vectors")
    constrained, by_site = (parse_study(text, where="vectors") for text in (CONSTRAINED, BY_SITE))
    policy = policy_of(study)
    roll = Roll((OTHER_HELLO, HELLO))
    transcript = roll.transcript(policy.hash)
    return {
        "study": {"toml": STUDY, "canonical": study.canonical.decode(), "hash": study.hash.hex()},
        "constrained": {
            "toml": CONSTRAINED,
            "canonical": constrained.canonical.decode(),
            "hash": constrained.hash.hex(),
        },
        "by_site": {
            "toml": BY_SITE,
            "canonical": by_site.canonical.decode(),
            "hash": by_site.hash.hex(),
            "last_column": by_site.released.columns[-1].model_dump(mode="json"),
        },
        "policy": {"kinds": [kind.declaration() for kind in KINDS], "code": CODE.hex(), "hash": policy.hash.hex()},
        "transcript": {"roll": encode(roll, SEQUENCE).hex(), "hash": transcript.hex()},
        "context": {"round": encode(ROUND, SEQUENCE).hex(), "hash": ROUND.context(transcript).hex()},
        "signed": {
            "hello": HELLO.signed(policy.hash).hex(),
            "confirm": CONFIRM.signed().hex(),
            "masked": MASKED.signed("a").hex(),
            "revealed": REVEALED.signed("a").hex(),
        },
    }


def key_schedule() -> dict[str, Any]:
    """Return agreed keys and what their ratchets derive."""
    own, peer, seed = b"\x11" * 32, b"\x22" * 32, b"\x33" * 64
    public, kem_public = ephemeral(own, seed).public
    peer_public = ephemeral(peer, seed).public[0]
    secret, salt, info = b"\x44" * 32, b"\x55" * 32, b"a|b-2" + b"\x09" * 1088
    pair = keys.pair_key(SUITES["hybrid"], ephemeral(own, seed), peer_public, secret, salt, info, peer="b-2")
    identity = Ed25519PrivateKey.from_private_bytes(b"\x66" * 32)
    ratchet, steps = keys.Ratchet(pair), []
    for counter in (0, 1, 2, 1000):
        ratchet.advance(counter)
        for purpose in ("mask", "canary", "sample", "noise"):
            derived = ratchet.derive(purpose, b"\x77" * 32).hex()
            steps.append({"counter": counter, "purpose": purpose, "context": "77" * 32, "key": derived})
    return {
        "pair": {
            "x25519_private": own.hex(),
            "x25519_public": public.hex(),
            "kem_seed": seed.hex(),
            "kem_public": kem_public.hex(),
            "peer_x25519_public": peer_public.hex(),
            "kem_secret": secret.hex(),
            "salt": salt.hex(),
            "info": info.hex(),
            "key": pair.hex(),
        },
        "self": {
            "entropy": "88" * 32,
            "identity_private": "66" * 32,
            "salt": salt.hex(),
            "key": keys.self_key(b"\x88" * 32, identity, salt).hex(),
        },
        "ratchet": steps,
    }


def draws() -> dict[str, Any]:
    """Return what key streams, noise and coins give for fixed keys."""
    key, bounds = bytes(range(32)), [1, 2, 3, 10, 2**40, 2**62 + 1]
    return {
        "words": {"key": key.hex(), "words": KeyStream(key).words(8).tolist()},
        "discrete_gaussian": [
            {"key": key.hex(), "scale_bits": bits, "draws": discrete_gaussian(KeyStream(key), 40, bits).tolist()}
            for bits in (4, 10, 18)
        ],
        "poisson_sample": [
            {"key": key.hex(), "units": units, "rate": rate, "sample": sampled(key, units, rate)}
            for units, rate in ((1000, 0.01), (100, 0.3), (5, 1.0))
        ],
        "uniform_below": {
            "key": key.hex(),
            "bounds": bounds,
            "draws": uniform_below(KeyStream(key), np.array(bounds)).tolist(),
        },
    }


def sampled(key: bytes, units: int, rate: float) -> list[int]:
    taken: list[int] = poisson_sample(KeyStream(key), units, rate).tolist()
    return taken


def frames() -> dict[str, Any]:
    """Return one frame of every message; those that must be refused are in `must_fail.py`."""
    return {
        "good": [
            {"frame": encode(message, SEQUENCE).hex(), "sequence": SEQUENCE, "message": described(message)}
            for message in MESSAGES
        ]
    }


PURPOSEFUL = STUDY.replace('target = "ill"', 'target = "ill"\npurpose = "to plan beds, \u00e4"')
STEWARD_SEED, COORDINATOR_SEED = b"\x21" * 32, b"\x43" * 32


def rotation() -> dict[str, Any]:
    """Return the statement of a rotation, what its signatures are over, and the enrolment that carries it."""
    old, new = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2))
    stated = Rotation.of("north", old, new, 1_700_000_000)
    enrolled = Enrolment.signed("north", "trust", new, "ecdsa-sha2-nistp384 AAAA", [stated])
    return {
        "old": old.private_bytes_raw().hex(),
        "new": new.private_bytes_raw().hex(),
        "statement": stated.model_dump(mode="json"),
        "signed": stated.signed.hex(),
        "enrolment": enrolled.model_dump(mode="json"),
    }


def approvals() -> dict[str, Any]:
    """Return a proposal, and one decision of each kind over it, as their files hold them."""
    study = parse_study(PURPOSEFUL, where="vectors")
    pins = (
        PluginPin(kind="model", name="toy", distribution="toys", version="1.2", hash="01" * 32),
        PluginPin(kind="domain", name="table", distribution="toys", version="1.2", hash="02" * 32),
    )
    subject = Subject("north", study.hash.hex(), policy_of(study).hash.hex(), pins)
    steward, coordinator = map(Ed25519PrivateKey.from_private_bytes, (STEWARD_SEED, COORDINATOR_SEED))
    proposal = Proposal.of(coordinator, study)
    said: tuple[tuple[Act, str | None], ...] = (("approve", None), ("reject", "too dear"), ("withdraw", None))
    decisions = [Decision.of(steward, act, subject, 1_700_000_000 + n, why) for n, (act, why) in enumerate(said)]
    return {
        "study": {"toml": PURPOSEFUL, "canonical": study.canonical.decode(), "hash": study.hash.hex()},
        "proposal": {
            "coordinator_seed": COORDINATOR_SEED.hex(),
            "signed": proposal.signed.hex(),
            "file": proposal.content.decode(),
            "fingerprint": proposal.fingerprint,
        },
        "subject": {"site": subject.site, "policy": subject.policy},
        "steward_seed": STEWARD_SEED.hex(),
        "decisions": [{"signed": each.signed.hex(), "file": each.content.decode()} for each in decisions],
    }


def release_seal() -> dict[str, Any]:
    """Return the seal of a release of two files, as its file holds it."""
    study = parse_study(PURPOSEFUL, where="vectors")
    coordinator = Ed25519PrivateKey.from_private_bytes(COORDINATOR_SEED)
    files = {"study.toml": b"\x01" * 32, "model/weights.safetensors": b"\x02" * 32}
    made = ReleaseSeal.of(coordinator, study=study.hash, setting="federation", files=files)
    return {"coordinator_seed": COORDINATOR_SEED.hex(), "signed": made.signed.hex(), "file": made.content.decode()}


FILES: dict[str, Callable[[], dict[str, Any]]] = {
    "hashes.json": hashes,
    "keys.json": key_schedule,
    "draws.json": draws,
    "frames.json": frames,
    "approvals.json": approvals,
    "release-seal.json": release_seal,
    "rotation.json": rotation,
}


def text_of(name: str) -> str:
    """Return the content of one file of vectors."""
    return json.dumps(FILES[name](), indent=1) + "\n"


if __name__ == "__main__":
    for file_name in FILES:
        (FOLDER / file_name).write_text(text_of(file_name), encoding="ascii")
