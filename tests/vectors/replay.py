"""Feeds stored frames to real machines, layer after layer as a site and a coordinator do, and says which layer refused.

Every layer of a party is asked in its order; a layer behind the one that refuses is never reached.
"""

import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.vectors.generate import ephemeral
from tests.vectors.session import SESSIONS

from synthfed.client.train import read_payload
from synthfed.protocols.errors import SynthfedError
from synthfed.protocols.secagg.aggregator import Aggregator
from synthfed.protocols.secagg.keys import Ratchet
from synthfed.protocols.secagg.messages import (
    Confirm,
    Hello,
    Masked,
    Message,
    Open,
    Roll,
    Round,
    Seal,
    decode,
    encode,
)
from synthfed.protocols.secagg.policy import Policy
from synthfed.protocols.secagg.site import Fresh, SiteMachine
from synthfed.protocols.study import parse_study
from synthfed.protocols.wire import Frame

raw = bytes.fromhex
LAYERS = ("frame", "message", "site", "payload", "terms", "aggregator")


class Refused(Exception):
    """A layer refused.

    Attributes:
        layer: which one.
        error: with what.
    """

    def __init__(self, layer: str, error: SynthfedError) -> None:
        super().__init__(f"{layer}: {error}")
        self.layer, self.error = layer, error


@contextmanager
def asking(layer: str) -> Iterator[None]:
    """Name the layer whose error passes."""
    try:
        yield
    except SynthfedError as error:
        raise Refused(layer, error) from None


def decoded(frame: bytes) -> tuple[Message, int]:
    """Return a frame's message and sequence number, asking the two lowest layers."""
    with asking("frame"):
        Frame.decode(frame)
    with asking("message"):
        return decode(frame)


def policy_of(session: Mapping[str, Any]) -> Policy:
    """Return the policy that all parties of a stored session pinned."""
    return next(each.policy for each in SESSIONS.values() if each.policy.hash.hex() == session["policy"])


class SiteParty:
    """The site under test, started from the bytes of the stored session."""

    def __init__(self, session: Mapping[str, Any], journal_floors: Mapping[str, int]) -> None:
        start = session["site"]
        identity = Ed25519PrivateKey.from_private_bytes(raw(start["identity_private"]))
        self._floors, self._values = journal_floors, np.array(start["values"], dtype=np.int64)
        self._fresh = Fresh(
            ephemeral(raw(start["x25519_private"]), raw(start["kem_seed"])),
            raw(start["nonce"]),
            raw(start["entropy"]),
            start["journal_length"],
            raw(start["journal_head"]),
        )
        self.machine = SiteMachine(policy_of(session), start["name"], identity)

    def hear(self, frame: bytes) -> bytes:
        """Return the answer to a frame of the coordinator; what refuses raises Refused."""
        message, sequence = decoded(frame)
        return encode(self._answer(message), sequence)

    def held(self) -> object:
        """Return everything that the machine holds, keys included, as plain values."""
        return plain({name: value for name, value in vars(self.machine).items() if name != "_policy"})

    def _answer(self, message: Message) -> Message:
        with asking("site"):
            match message:
                case Open():
                    return self.machine.hello(message, self._fresh)
                case Roll():
                    return self.machine.confirm(message, self._floors)
                case Seal():
                    return self.machine.activate(message)
                case Round():
                    accepted = self.machine.accept(message)
                case _:
                    raise AssertionError(f"{type(message).__name__} is not for a site")
        if accepted.kind is not None:
            with asking("payload"):
                read_payload(accepted.kind, message.payload)
        self.machine.commit(accepted)
        return self.machine.mask(accepted, self._values)


class CoordinatorParty:
    """An aggregator of the stored session."""

    def __init__(self, session: Mapping[str, Any]) -> None:
        self.machine = Aggregator(policy_of(session), raw(session["session"]))
        self._round = raw(session["frames"]["round"])
        self.total: list[int] = []

    def act(self, what: str) -> Message:
        """Return what the coordinator sends of its own accord."""
        machine = self.machine
        sent, _ = decode(self._round)
        assert isinstance(sent, Round)
        acts: dict[str, Callable[[], Message]] = {
            "open": machine.open,
            "roll": machine.roll,
            "seal": machine.seal,
            "round": lambda: machine.round(machine.members, sent.kind, sent.payload),
        }
        return acts[what]()

    def hear(self, frame: bytes, sender: str) -> None:
        """Take a frame of a site; what refuses raises Refused."""
        message, _ = decoded(frame)
        with asking("aggregator"):
            match message:
                case Hello():
                    self.machine.add_hello(sender, message)
                case Confirm():
                    self.machine.add_confirm(sender, message)
                case Masked():
                    self.machine.add_masked(sender, message)
                case _:
                    raise AssertionError(f"{type(message).__name__} is not for a coordinator")

    def add_up(self) -> None:
        with asking("aggregator"):
            self.total = self.machine.total().tolist()

    def held(self) -> object:
        """Return everything that the aggregator holds, as plain values."""
        return plain({name: value for name, value in vars(self.machine).items() if name != "_policy"})


def plain(value: object) -> object:
    """Return a value that shares nothing with the one given, for comparing before with after."""
    if isinstance(value, Ratchet):
        return bytes(value._key), value._counter
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if is_dataclass(value) and not isinstance(value, type):
        return [type(value).__name__, *(plain(getattr(value, each.name)) for each in fields(value))]
    return value


Party = SiteParty | CoordinatorParty


def session_of(inputs: Mapping[str, Any], sessions: Mapping[str, Any]) -> Any:
    """Return the stored session that a scenario departs from."""
    return sessions[inputs.get("session", "session")]


def party_of(inputs: Mapping[str, Any], sessions: Mapping[str, Any]) -> Party:
    """Return who hears a scenario's frames, with all that comes before heard, answered and compared with the session.

    An entry of ``after`` is a frame of the session by its name, or one of the scenario's own.
    """
    session = session_of(inputs, sessions)
    is_site = inputs["party"] == "site"
    party = SiteParty(session, inputs.get("journal_floors", {})) if is_site else CoordinatorParty(session)
    for step in inputs["after"]:
        if isinstance(step, dict):
            hear(party, step)
        else:
            go_on(party, step, session["frames"])
    return party


def go_on(party: Party, step: str, frames: Mapping[str, str]) -> None:
    """Let a party hear, or the coordinator send, one frame of the stored session; "sum" is the coordinator's adding."""
    sender = step.partition(" ")[2]
    if isinstance(party, SiteParty):
        answers = {"open": "hello south", "roll": "confirm south", "seal": "ready", "round": "masked south"}
        assert party.hear(raw(frames[step])).hex() == frames[answers[step]], step
    elif sender:
        party.hear(raw(frames[step]), sender)
    elif step == "sum":
        party.add_up()
    else:
        assert encode(party.act(step), Frame.decode(raw(frames[step])).sequence).hex() == frames[step], step


def hear(party: Party, step: Mapping[str, str]) -> None:
    """Let a party hear a scenario's own frame."""
    if isinstance(party, SiteParty):
        party.hear(raw(step["frame"]))
    else:
        party.hear(raw(step["frame"]), step["from"])


def replay(inputs: Mapping[str, Any], party: Party | None) -> None:
    """Ask every layer about a scenario's last input; the one that refuses raises Refused.

    Args:
        inputs: the scenario's.
        party: from ``party_of``, where there is one; None for a frame or terms alone.
    """
    if "toml" in inputs:
        tomllib.loads(inputs["toml"])
        with asking("terms"):
            parse_study(inputs["toml"], where="study.toml")
    elif party is None:
        decoded(raw(inputs["frame"]))
    elif "frame" in inputs:
        hear(party, inputs)
    elif isinstance(party, CoordinatorParty):
        party.add_up()
