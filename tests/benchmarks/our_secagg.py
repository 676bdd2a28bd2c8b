"""Our side of the comparison: real site machines and a real aggregator, in one process, timed.

Never leaves out a check that a site makes.
"""

import base64
import os
from collections.abc import Callable, Iterable, Iterator
from typing import cast

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.benchmarks.stopwatch import HARNESS, SERVER, Stopwatch, Traffic, count

from synthfed.protocols.cohort import Cohort, Site, least_quorum, least_tolerated
from synthfed.protocols.ids import digest
from synthfed.protocols.keystream import KeyStream
from synthfed.protocols.privacy.noise import discrete_gaussian
from synthfed.protocols.privacy.plan import Plan, box
from synthfed.protocols.schema import Categorical
from synthfed.protocols.secagg import messages, ring
from synthfed.protocols.secagg.aggregator import Aggregator
from synthfed.protocols.secagg.keys import Ephemeral
from synthfed.protocols.secagg.policy import Policy
from synthfed.protocols.secagg.site import Fresh, SiteMachine
from synthfed.protocols.study import ModelTerms, Privacy, Study
from synthfed.protocols.sums import SCALE_BITS, Kind, Sum, noise_shares

Floats = npt.NDArray[np.float64]
Ask = Callable[[messages.Request], Iterable[tuple[str, messages.Message]]]

GRADIENT = "gradient"


def identity(site: str) -> Ed25519PrivateKey:
    """Return a site's identity key, the same in every process."""
    return Ed25519PrivateKey.from_private_bytes(digest("benchmark-identity", site.encode()))


def make_policy(sites: int, dim: int, bits: int) -> Policy:
    """Return a policy with one gradient of that size, whose payload is a model of that size."""
    ids = [f"site-{number:02}" for number in range(sites)]
    roster = [
        Site(id=each, key=base64.b64encode(identity(each).public_key().public_bytes_raw()).decode()) for each in ids
    ]
    tolerated = least_tolerated(roster)
    quorum = least_quorum(sites, tolerated, "distributed")
    study = Study(
        format=1,
        name="secagg",
        target="c",
        privacy=Privacy(mode="distributed", epsilon=5.0, delta=1e-6, units_per_site=1000, sample_rate=0.01, steps=1000),
        model=ModelTerms(plugin="none"),
        cohort=Cohort(tolerated=tolerated, quorum=quorum, sites=tuple(roster)),
        columns=(Categorical(name="c", values=("no", "yes")),),
    )
    total = Sum(GRADIENT, "gradient", dim, 1.0, 0.01, 1000, 1.0, (("weights", (dim,)),))
    # With this noise, 64 slots fit a 32-bit ring at 50 sites; the epsilons are not looked at.
    return Policy(study, Plan((Kind(total, 8.0, 64, bits),), 1.0, 1.0, ((tolerated, 1.0),)), b"code")


def clipped(dim: int) -> Floats:
    """Return a sum as one unit at its clip norm makes it."""
    return np.full(dim, dim**-0.5)


class Clients:
    """Every site of a study in one process; they answer one after another."""

    def __init__(self, policy: Policy, total: Floats, noisy: str = "") -> None:
        """Remember the clipped sum that each contributes, and the one site that draws its noise."""
        self.policy, self.total, self.noisy = policy, total, noisy
        self.machines = {site: SiteMachine(policy, site, identity(site)) for site in policy.study.cohort.roster}

    def answer(self, site: str, message: messages.Request, watch: Stopwatch) -> messages.Message:
        """Return a site's answer, timed."""
        machine = self.machines[site]
        match message:
            case messages.Open():
                with watch(site, "hello"):
                    fresh = Fresh(Ephemeral.generate(self.policy.suite), os.urandom(32), os.urandom(32), 0, bytes(32))
                    return machine.hello(message, fresh)
            case messages.Roll():
                with watch(site, "confirm"):
                    return machine.confirm(message, {})
            case messages.Seal():
                with watch(site, "activate"):
                    return machine.activate(message)
            case messages.Round():
                return self._masked(site, message, watch)

    def _masked(self, site: str, message: messages.Round, watch: Stopwatch) -> messages.Masked:
        """Return a round's answer, as the agent makes it but for charge, coins and gradient."""
        machine = self.machines[site]
        with watch(site, "check"):
            assert machine.repeated(message) is None
            accepted = machine.accept(message)
        with watch(site, "commit"):
            seeds = machine.commit(accepted)
        values = np.empty(0, dtype=np.int64)
        if accepted.kind is not None:
            with watch(site, "encode"):
                values = self.grid(accepted.kind)
            if site == self.noisy:
                with watch(HARNESS, "noise"):
                    values = values + discrete_gaussian(KeyStream(seeds.noise), len(values), SCALE_BITS)
        with watch(site, "mask"):
            return machine.mask(accepted, values)

    def grid(self, kind: Kind) -> npt.NDArray[np.int64]:
        """Return the sum in grid steps."""
        study = self.policy.study
        step = kind.grid_step(noise_shares(study, len(study.cohort.sites)))
        return ring.to_grid(self.total, step, box(study, kind.ring_bits))

    def in_process(self, watch: Stopwatch, traffic: Traffic) -> Ask:
        """Return a way to ask all of them, which counts the first one's traffic."""

        def ask(message: messages.Request) -> Iterator[tuple[str, messages.Message]]:
            for site in self.machines:
                answer = self.answer(site, message, watch)
                if site == self.policy.study.cohort.roster[0]:
                    count(traffic, "down", len(messages.encode(message, 1)))
                    count(traffic, "up", len(messages.encode(answer, 1)))
                yield site, answer

        return ask


def handshake(policy: Policy, ask: Ask, watch: Stopwatch) -> Aggregator:
    """Return the aggregator of an agreed and probed session."""
    aggregator = Aggregator(policy, os.urandom(32))
    for site, answer in ask(aggregator.open()):
        with watch(SERVER, "add_hello"):
            aggregator.add_hello(site, cast(messages.Hello, answer))
    with watch(SERVER, "roll"):
        roll = aggregator.roll()
    for site, answer in ask(roll):
        with watch(SERVER, "add_confirm"):
            aggregator.add_confirm(site, cast(messages.Confirm, answer))
    with watch(SERVER, "seal"):
        seal = aggregator.seal()
    for _ in ask(seal):
        pass
    finish(aggregator, ask, watch, aggregator.probe(aggregator.members))
    return aggregator


def finish(aggregator: Aggregator, ask: Ask, watch: Stopwatch, message: messages.Round) -> npt.NDArray[np.int64]:
    """Return the sum of a round that was begun."""
    for site, answer in ask(message):
        with watch(SERVER, "add_masked"):
            aggregator.add_masked(site, cast(messages.Masked, answer))
    with watch(SERVER, "total"):
        return aggregator.total()


class Ours:
    """A session in one process."""

    def __init__(self, sites: int, dim: int, bits: int) -> None:
        """Agree on keys."""
        policy = make_policy(sites, dim, bits)
        self.name = f"synthfed {bits} bit"
        self.clients = Clients(policy, clipped(dim))
        self.watch, self.traffic = Stopwatch(), Traffic()
        self.aggregator = handshake(policy, self.clients.in_process(self.watch, self.traffic), self.watch)
        self.payload = np.zeros(dim, dtype="<f4").tobytes()

    def round(self) -> tuple[Stopwatch, Traffic]:
        """Add up once, and check the sum."""
        watch, traffic = Stopwatch(), Traffic()
        with watch(SERVER, "round"):
            message = self.aggregator.round(self.aggregator.members, GRADIENT, self.payload)
        total = finish(self.aggregator, self.clients.in_process(watch, traffic), watch, message)
        kind = self.clients.policy.plan.kinds[0]
        assert (total == len(message.cohort) * self.clients.grid(kind)).all()
        return watch, traffic
