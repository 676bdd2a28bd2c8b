"""A whole federation in memory: real machines, a real aggregator, every message through its encoding."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from synthfed.protocols.errors import RemoteProtocolError
from synthfed.protocols.ids import digest
from synthfed.protocols.privacy.plan import Plan
from synthfed.protocols.secagg import keys, table
from synthfed.protocols.secagg.aggregator import Aggregator
from synthfed.protocols.secagg.messages import Confirm, Hello, Masked, Message, Roll, Round, Seal, decode, encode
from synthfed.protocols.secagg.policy import Policy
from synthfed.protocols.secagg.site import Fresh, SiteMachine, _Session
from synthfed.protocols.secagg.suites import SUITES, Suite
from synthfed.protocols.study import Study
from synthfed.protocols.sums import Kind, Sum

NAMES = ("a", "b", "c", "d", "e")
DIM = 5
SESSION = bytes(range(32))

_M = TypeVar("_M", bound=Message)


def identity(name: str) -> Ed25519PrivateKey:
    """Return the test identity of a site, the same on every call."""
    return Ed25519PrivateKey.from_private_bytes(digest("test-identity", name.encode()))


def public_text(name: str) -> str:
    return base64.b64encode(identity(name).public_key().public_bytes_raw()).decode()


def terms(names: tuple[str, ...] = NAMES, *, quorum: int = 4, tolerated: int = 1, **privacy: Any) -> dict[str, Any]:
    """Return a study's fields as a TOML file would give them."""
    constants = {"mode": "distributed", "epsilon": 2.0, "delta": 1e-6, "units_per_site": 1000, "sample_rate": 0.1}
    return {
        "format": 1,
        "name": "test-study",
        "target": "ill",
        "privacy": {**constants, "steps": 10, **privacy},
        "model": {"plugin": "toy"},
        "cohort": {
            "tolerated": tolerated,
            "quorum": quorum,
            "sites": [{"id": name, "key": public_text(name)} for name in names],
        },
        "columns": [{"kind": "categorical", "name": "ill", "values": ["no", "yes"]}],
    }


def study_of(names: tuple[str, ...] = NAMES, *, aggregation: Mapping[str, Any] | None = None, **changes: Any) -> Study:
    """Return a validated study; `changes` are those of `terms`."""
    return Study.model_validate(terms(names, **changes) | {"aggregation": aggregation or {}})


def kind(name: str, bits: int = 32, dim: int = DIM) -> Kind:
    return Kind(Sum(name, "gradient", dim, 1.0, 0.1, 100, 1.0), noise_multiplier=1.0, slots=64, ring_bits=bits)


def policy(study: Study | None = None, code: bytes = b"code", dim: int = DIM) -> Policy:
    """Return a policy with two alike narrow kinds and a wide one; its epsilons are not looked at."""
    kinds = (kind("steps", dim=dim), kind("other", dim=dim), kind("wide", 64, dim))
    return Policy(study or study_of(), Plan(kinds, 1.0, 1.0, ((1, 1.0),)), code)


def fresh(name: str, journal_length: int = 0, suite: Suite = SUITES["hybrid"]) -> Fresh:
    return Fresh(
        keys.Ephemeral.generate(suite),
        nonce=digest("test-nonce", name.encode()),
        entropy=digest("test-entropy", name.encode()),
        journal_length=journal_length,
        journal_head=bytes(32),
    )


def wire(message: _M) -> _M:
    """Return the message as its receiver decodes it."""
    received, _ = decode(encode(message, 7))
    assert type(received) is type(message)
    return received


class Federation:
    """Sites and a coordinator; `drifted` gives a site a policy of its own, `machine` all sites another conduct."""

    def __init__(
        self,
        names: tuple[str, ...] = NAMES,
        drifted: Mapping[str, Policy] | None = None,
        pinned: Policy | None = None,
        machine: type[SiteMachine] = SiteMachine,
    ) -> None:
        self.names = names
        self.policy = pinned or policy()
        policies = drifted or {}
        self.sites = {name: machine(policies.get(name, self.policy), name, identity(name)) for name in names}
        self.aggregator = Aggregator(self.policy, SESSION)

    def hellos(self) -> dict[str, Hello]:
        """Return every site's answer to S1."""
        opening, suite = wire(self.aggregator.open()), self.policy.suite
        return {name: wire(site.hello(opening, fresh(name, suite=suite))) for name, site in self.sites.items()}

    def roll(self) -> Roll:
        """Return S2 of an honest coordinator."""
        for name, hello in self.hellos().items():
            self.aggregator.add_hello(name, hello)
        return wire(self.aggregator.roll())

    def confirms(self, roll: Roll) -> dict[str, Confirm]:
        """Return every site's answer to one S2."""
        return {name: wire(site.confirm(roll, {})) for name, site in self.sites.items()}

    def seal(self) -> Seal:
        """Return S3 of an honest coordinator."""
        for name, confirm in self.confirms(self.roll()).items():
            self.aggregator.add_confirm(name, confirm)
        return wire(self.aggregator.seal())

    def active(self) -> "Federation":
        """Return itself after an honest handshake."""
        seal = self.seal()
        for site in self.sites.values():
            wire(site.activate(seal))
        return self

    def answer(self, name: str, message: Round, values: npt.NDArray[np.int64]) -> Masked:
        """Return a site's masked sum for a round."""
        site = self.sites[name]
        accepted = site.accept(wire(message))
        site.commit(accepted)
        return wire(site.mask(accepted, values))

    def collect(self, message: Round, values: Mapping[str, npt.NDArray[np.int64]]) -> None:
        """Let every site of the cohort answer the aggregator's round."""
        for name in message.cohort:
            self.aggregator.add_masked(name, self.answer(name, message, values[name]))

    def relabelled(self, name: str, masked: Masked, message: Round) -> Masked:
        """Return words masked under one view of a round, signed by their site as if for another."""
        honest = replace(masked, context=message.context(self.aggregator._transcript))
        return resigned(name, honest)


def resigned(name: str, masked: Masked) -> Masked:
    return replace(masked, signature=keys.sign(identity(name), masked.signed(name)))


def signed_hello(hello: Hello, by: str, policy_hash: bytes, **changes: Any) -> Hello:
    """Return a changed Hello with a valid signature of site `by`."""
    changed = replace(hello, **changes)
    return replace(changed, signature=keys.sign(identity(by), changed.signed(policy_hash)))


def signed_confirm(confirm: Confirm, by: str, **changes: Any) -> Confirm:
    """Return a changed Confirm with a valid signature of site `by`."""
    changed = replace(confirm, **changes)
    return replace(changed, signature=keys.sign(identity(by), changed.signed()))


def refusal(action: Callable[[], object]) -> str:
    """Return the message with which a peer's fault is refused."""
    try:
        action()
    except RemoteProtocolError as error:
        return str(error)
    raise AssertionError("was not refused")


def session_of(site: SiteMachine) -> _Session:
    """Return a site's open session, for tests that look at its keys."""
    assert site._session is not None
    return site._session


def pads_of(site: SiteMachine, message: Round) -> dict[str, tuple[bytes, bool]]:
    """Return the mask keys of a site that has committed a round, by peer, and whether each is added."""
    session = session_of(site)
    peers = [peer for peer in session.ratchets if peer in message.cohort]
    return {peer: (mask, added) for peer, (mask, _, added) in zip(peers, session.masks, strict=True)}


def snapshot(site: SiteMachine) -> dict[str, Any]:
    """Return everything that a site's machine holds, its ratchets' keys included."""
    if site._session is None:
        return {"state": site.state}
    held = {each.name: getattr(site._session, each.name) for each in fields(site._session)}
    ratchets = {"own": held["own"], **held["ratchets"]}
    positions = {name: (bytes(ratchet._key), ratchet._counter) for name, ratchet in ratchets.items()}
    copies = {name: value.copy() for name, value in held.items() if isinstance(value, dict | list)}
    return {"state": site.state, "ratchet positions": positions, **held, **copies}


def round_of(counter: int = 1, cohort: tuple[str, ...] = NAMES, kind: str = "steps", payload: bytes = b"w") -> Round:
    return Round(counter, cohort, kind, payload)


def assert_still(site: SiteMachine, state: table.Site, action: Callable[[], object], *, says: str) -> None:
    """Check that the action is refused with that reason and that the machine is as it was."""
    before = snapshot(site)
    assert says in refusal(action)
    assert site.state is state
    assert snapshot(site) == before
