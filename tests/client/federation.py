"""Three real agents with ledgers and the coordinator's aggregator between them, fed with encoded frames only."""

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from synthfed.client.agent import Agent
from synthfed.client.channel import Answers, Reply, connect, serve
from synthfed.client.config import Ceiling
from synthfed.client.data import UnitData
from synthfed.client.gate import Gate
from synthfed.client.vault import Ledger
from synthfed.plugins.api import Array, LocalPart, Payload, PrivatePart, Records, Still
from synthfed.protocols.errors import TransportError
from synthfed.protocols.keystream import KeyStream
from synthfed.protocols.privacy.noise import discrete_gaussian
from synthfed.protocols.secagg import messages, ring
from synthfed.protocols.secagg.aggregator import Aggregator
from synthfed.protocols.secagg.masks import apply_masks
from synthfed.protocols.secagg.messages import Code, Refusal
from synthfed.protocols.secagg.policy import Policy
from synthfed.protocols.secagg.session import Seeds
from synthfed.protocols.secagg.site import SiteMachine
from synthfed.protocols.sums import SCALE_BITS

Identities = dict[str, Ed25519PrivateKey]

UNITS = 20
STATISTIC_S = 3.0
GRADIENT_S = 0.25
AMPLE = Ceiling(epsilon=100.0, delta=1e-5)
WEIGHTS = np.linspace(-1, 1, 10, dtype="<f4").tobytes()


@dataclass
class Clock:
    """A clock that moves only when told to, or by ``tick_s`` at every look."""

    now: float = 100.0
    tick_s: float = 0.0

    def __call__(self) -> float:
        self.now += self.tick_s
        return self.now


@dataclass
class Plugin:
    """The tiny plugin, calling ``meet`` with every batch of records before it computes."""

    tiny: PrivatePart
    meet: Callable[[Array], object] = len

    def encode(self, records: Records) -> Array:
        return self.tiny.encode(records)

    def statistic(self, name: str, batch: Array, payload: Payload) -> Array:
        self.meet(batch)
        return self.tiny.statistic(name, batch, payload)

    def module(self, name: str) -> torch.nn.Module:
        return self.tiny.module(name)

    def loss(self, name: str, module: torch.nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
        self.meet(batch.detach().numpy())
        return self.tiny.loss(name, module, batch, coins)


def records(cls: type[UnitData] = UnitData, offset: float = 0.0) -> UnitData:
    encoded = (np.arange(UNITS) / UNITS + offset)[:, None]
    return cls(encoded, np.arange(UNITS, dtype=np.int64), np.ones(UNITS, dtype=np.int64))


@dataclass
class Federation:
    """Three agents, each with a ledger file, and the coordinator's aggregator between them."""

    policy: Policy
    agents: dict[str, Agent]
    clock: Clock
    aggregator: Aggregator = field(init=False)
    sequence: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def a(self) -> Agent:
        return self.agents["a"]

    def ask(self, site: str, message: messages.Message) -> messages.Message:
        number = next(self.sequence)
        answer, echoed = messages.decode(answered(self.agents[site], messages.encode(message, number)).frame)
        assert echoed == number
        return answer

    def shake_hands(self, session: bytes = b"n" * 32) -> None:
        self.aggregator = Aggregator(self.policy, session)
        for site in self.agents:
            hello = self.ask(site, self.aggregator.open())
            assert isinstance(hello, messages.Hello)
            self.aggregator.add_hello(site, hello)
        roll = self.aggregator.roll()
        for site in self.agents:
            confirm = self.ask(site, roll)
            assert isinstance(confirm, messages.Confirm)
            self.aggregator.add_confirm(site, confirm)
        seal = self.aggregator.seal()
        for site in self.agents:
            assert self.ask(site, seal) == messages.Ready()

    def round(self, kind: str) -> bytes:
        """Return the next round's frame, the same for every site."""
        message = self.aggregator.round(tuple(self.agents), kind, WEIGHTS if kind == "critic" else b"")
        return messages.encode(message, next(self.sequence))

    def reply(self, kind: str = "count") -> Reply:
        """Give site a alone a fresh round; the coordinator gives it up."""
        reply = answered(self.a, self.round(kind))
        self.aggregator.give_up()
        return reply

    def code(self, kind: str = "count") -> Code:
        answer = decoded(self.reply(kind))
        assert isinstance(answer, Refusal)
        return answer.code


Join = Callable[..., Federation]


def join_at(stack: ExitStack, folder: Path, policy: Policy, identities: Identities, tiny: PrivatePart) -> Join:
    """Return a function that starts three agents over the ledgers in a folder, anew at every call."""

    def joined(
        data: UnitData | Mapping[str, UnitData] | None = None,
        private: PrivatePart = tiny,
        clock: Clock | None = None,
        ceiling: Ceiling = AMPLE,
        shaken: bool = True,
        local: LocalPart | None = None,
        objection: Callable[[], str] = str,
    ) -> Federation:
        clock = clock or Clock()
        held = data if isinstance(data, Mapping) else dict.fromkeys(identities, data or records())
        agents = {}
        for site, identity in identities.items():
            ledger = stack.enter_context(closing(Ledger(folder / f"{site}.db", identity, create=True)))
            gate, machine = Gate(policy, ceiling, ledger), SiteMachine(policy, site, identity)
            plugin = private if site == "a" else tiny
            moves, look = local or Still(), objection if site == "a" else str
            agents[site] = Agent(policy, machine, gate, ledger, held[site], plugin, clock, moves, objection=look)
        federation = Federation(policy, agents, clock)
        if shaken:
            federation.shake_hands()
        return federation

    return joined


@contextmanager
def served(agent: Answers, path: Path) -> Iterator[socket.socket]:
    """Yield a connection to an agent that a thread serves on the real clock, until the end of the block."""
    done = threading.Event()
    server = threading.Thread(target=serve, args=(agent, path, done.is_set, time.monotonic))
    server.start()
    try:
        with _connected(path) as connection:
            yield connection
            done.set()
    finally:
        done.set()
        server.join()


def _connected(path: Path) -> socket.socket:
    """Return a connection as soon as there is one: a socket's file is there a moment before it listens."""
    deadline_s = time.monotonic() + 10
    while True:
        try:
            return connect(path)
        except TransportError:
            assert time.monotonic() < deadline_s
            time.sleep(0.005)


def answered(agent: Agent, frame: bytes) -> Reply:
    """Return the agent's reply; the session stands."""
    reply = agent.answer(frame)
    assert reply is not None
    return reply


def decoded(reply: Reply) -> messages.Message:
    return messages.decode(reply.frame)[0]


def is_sum(reply: Reply) -> bool:
    return isinstance(decoded(reply), messages.Masked)


@dataclass(frozen=True)
class Opened:
    """A reply as only the site itself could open it: its round's seeds, and its sum without masks and noise.

    Attributes:
        reply: what the agent answered.
        seeds: the round's secrets for coins and noise.
        masks: keys of the masks, by peer.
        noise: the noise that was added, in grid steps.
        grid: the clipped sum in grid steps.
    """

    reply: Reply
    seeds: Seeds
    masks: Mapping[str, bytes]
    noise: npt.NDArray[np.int64]
    grid: npt.NDArray[np.int64]


def round_secrets(machine: SiteMachine, message: messages.Round) -> tuple[Seeds, dict[str, bytes]]:
    """Return a coming round's seeds and mask keys, from copies of the machine's ratchets."""
    session = machine._session
    assert session is not None
    own, ratchets = deepcopy(session.own), deepcopy(session.ratchets)
    context = message.context(session.transcript)
    for ratchet in (own, *ratchets.values()):
        ratchet.advance(message.counter)
    seeds = Seeds(own.derive("sample", context), own.derive("noise", context))
    return seeds, {peer: ratchet.derive("mask", context) for peer, ratchet in ratchets.items()}


def opened(agent: Agent, site: str, frame: bytes) -> Opened:
    """Let an agent answer a round, and take masks and noise off again."""
    message, _ = messages.decode(frame)
    assert isinstance(message, messages.Round)
    kind = agent.policy.plan.kind(message.kind)
    assert kind is not None
    seeds, masks = round_secrets(agent.machine, message)
    reply = answered(agent, frame)
    masked = decoded(reply)
    assert isinstance(masked, messages.Masked), masked
    words = ring.from_bytes(masked.words, kind.sum.dim, kind.ring_bits, peer=site).copy()
    apply_masks(words, [(key, peer < site) for peer, key in masks.items()])
    noise = discrete_gaussian(KeyStream(seeds.noise), kind.sum.dim, SCALE_BITS)
    grid = ring.centred(words - ring.to_words(noise, kind.ring_bits))
    return Opened(reply, seeds, masks, noise, grid)
