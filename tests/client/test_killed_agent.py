"""Kill -9 of an agent: at every line of the way from a round to its answer, and at 200 random moments."""

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.client.federation import AMPLE, Federation, Identities, answered, decoded, is_sum, join_at

from synthfed.client import agent, anchor, chain, entries, gate, vault
from synthfed.client.agent import Agent
from synthfed.client.gate import Gate
from synthfed.client.reservation import Reservation
from synthfed.client.vault import Ledger
from synthfed.plugins.api import PrivatePart
from synthfed.protocols.secagg import site
from synthfed.protocols.secagg.messages import Code, Refusal
from synthfed.protocols.secagg.policy import Policy

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

SUBMIT_PATH = {
    str(module.__file__): module.__name__.rpartition(".")[2]
    for module in (agent, anchor, chain, entries, gate, vault, site)
}
CHARGED_BEFORE = 1
KILLS = 200
SEED = 20260

Tracer = Callable[[FrameType, str, Any], Any]


@dataclass(frozen=True)
class End:
    """How a child ended: what it told, in lines, and at which line of which function it was killed."""

    told: tuple[str, ...]

    @property
    def has_answered(self) -> bool:
        return "answered" in self.told

    @property
    def had_secrets(self) -> bool:
        """Whether it had come to the function that derives seeds: from there on coins can have been drawn."""
        return "secrets" in self.told

    @property
    def place(self) -> str:
        return self.told[-1]


@dataclass(frozen=True)
class Warm:
    """Who shook hands over ledgers, all of them closed, and a gate that has let a round of a statistic through.

    What the accountant says takes longer than all the rest of a step, and it is not what is killed here: as in an
    agent that has had such a round before, a child need not ask it.
    """

    folder: Path
    federation: Federation
    gate: Gate

    def agent(self, folder: Path, identity: Ed25519PrivateKey) -> Agent:
        """Return the agent over its own copy of the ledger, in the state after the handshake."""
        ledger, ready = Ledger(folder / "a.db", identity), self.federation.a
        own = Gate(ready.policy, AMPLE, ledger)
        own._known = self.gate._known
        return replace(ready, ledger=ledger, gate=own)


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory, policy: Policy, identities: Identities, tiny: PrivatePart) -> Warm:
    """Return what children start from: after a handshake and one settled round."""
    folder = tmp_path_factory.mktemp("before")
    with ExitStack() as stack:
        federation = join_at(stack, folder, policy, identities, tiny)()
        assert is_sum(federation.reply("critic"))
    asked = shutil.copytree(folder, tmp_path_factory.mktemp("asked") / "home")
    kind = policy.plan.kind("count")
    assert kind is not None
    with closing(Ledger(asked / "a.db", identities["a"])) as ledger:
        known = Gate(policy, AMPLE, ledger)
        known.check(kind)
    return Warm(folder, federation, known)


def killer(wanted: int) -> Tracer:
    """Return a tracer that kills this process when it comes to the wanted line of the submit path."""
    seen = 0

    def trace(frame: FrameType, event: str, _: Any) -> Tracer | None:
        nonlocal seen
        module = SUBMIT_PATH.get(frame.f_code.co_filename)
        if module is None:
            return None
        if event == "line":
            seen += 1
            place = f"{module}.{frame.f_code.co_name}:{frame.f_lineno}"
            if place.startswith("site.commit"):
                os.write(1, b"secrets\n")
            if seen == wanted:
                os.write(1, f"{place}\n".encode())
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace


def in_a_child(work: Callable[[], object], kill_after_s: float | None = None) -> End:
    """Let a child do some work and tell of it on its standard output; it is killed so long after its first word."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.dup2(writer, 1)
            work()
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        first = pipe.readline()
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            os.kill(child, signal.SIGKILL)
        end = End((*first.split(), *pipe.read().split()))
    _, status = os.waitpid(child, 0)
    assert end.has_answered or os.WTERMSIG(status) == signal.SIGKILL
    return end


def answer(
    start: Callable[[Path, Ed25519PrivateKey], Agent],
    home: Path,
    identity: Ed25519PrivateKey,
    frame: bytes,
    wanted: int,
) -> None:
    """Answer a round, but die at a line of the way."""
    own = start(home, identity)
    sys.settrace(killer(wanted))
    reply = answered(own, frame)
    sys.settrace(None)
    os.write(1, b"answered\n" if is_sum(reply) else b"refused\n")


def test_kill_9_at_every_line_of_a_submission_leaves_a_verified_ledger_charged_before_any_coin_and_stops_the_agent(
    warm: Warm, tmp_path: Path, policy: Policy, identities: Identities, tiny: PrivatePart
) -> None:
    """Every line of agent, gate, vault and site machine from the frame to its answer, one child each.

    The agents are started again after every eighth line: one that was killed with no step open serves, another stops.
    """
    frame = warm.federation.round("count")
    places: list[str] = []
    outcomes: list[tuple[int, bool]] = []
    while True:
        home = shutil.copytree(warm.folder, tmp_path / "home")
        end = in_a_child(partial(answer, warm.agent, home, identities["a"], frame, len(places) + 1))
        if end.has_answered:
            break
        places.append(end.place)
        with closing(Ledger(home / "a.db", identities["a"])) as ledger:  # verifies the chain
            is_charged, is_open = ledger.length > CHARGED_BEFORE, bool(ledger.unsettled())
            assert ledger.length in (CHARGED_BEFORE, CHARGED_BEFORE + 1), end
        assert is_charged or not (end.had_secrets or is_open), end
        outcomes.append((CHARGED_BEFORE + is_charged, is_open))
        if len(places) % 8 == 1 or outcomes[-1:] != outcomes[-2:-1]:
            assert_serves_or_stops(home, frame, policy, identities, tiny, is_open=is_open)
        shutil.rmtree(home)
    warm.federation.aggregator.give_up()
    assert outcomes == sorted(outcomes, key=lambda each: (each[0], not each[1]))
    assert set(outcomes) == {(CHARGED_BEFORE, False), (CHARGED_BEFORE + 1, True), (CHARGED_BEFORE + 1, False)}
    functions = {place.partition(":")[0] for place in places}
    assert functions >= {
        *("agent.answer", "agent._round", "agent._charged", "agent._total", "agent._on_grid"),
        *("gate.check", "gate.charge", "entries.charged", "entries.seal", "entries.add", "chain.read_after"),
        *("vault.charge", "vault._append", "vault._catch_up", "vault._transaction", "vault.settle"),
        *("anchor.write_anchor", "site.accept", "site.commit", "site.mask"),
    }


def assert_serves_or_stops(
    home: Path, frame: bytes, policy: Policy, identities: Identities, tiny: PrivatePart, *, is_open: bool
) -> None:
    """Start all agents again over the ledgers that are left."""
    with ExitStack() as stack:
        again = join_at(stack, home, policy, identities, tiny)(shaken=False)
        length = again.a.ledger.length
        if is_open:
            assert decoded(answered(again.a, frame)) == Refusal(Code.STOPPED)
            assert again.a.ledger.length == length
        else:
            assert decoded(answered(again.a, frame)) == Refusal(Code.PROTOCOL)  # its session is gone
            again.shake_hands(b"m" * 32)
            assert is_sum(again.reply())


def go_through_everything(
    start: Callable[[Path, Ed25519PrivateKey], Agent], home: Path, identity: Ed25519PrivateKey, frames: list[bytes]
) -> None:
    """Write entries of every kind that an agent or a steward's command writes, telling of each when it stands."""
    own = start(home, identity)
    study = own.policy.study.hash
    os.write(1, b"ready\n")
    own.ledger.reserve(Reservation.of(own.policy), bool)
    os.write(1, b"reserved\n")
    own.ledger.note_dataset("0" * 16, "f" * 32)
    os.write(1, b"dataset\n")
    for frame in frames:
        assert is_sum(answered(own, frame))
        os.write(1, b"round\n")
    own.ledger.remember_peers({"b" * 64: 7})
    own.ledger.release(study, 7)
    os.write(1, b"released\n")
    signal.pause()


def test_200_kills_at_random_moments_lose_no_charge_and_no_reservation_and_tear_no_chain(
    warm: Warm, tmp_path: Path, identities: Identities
) -> None:
    """What a child has told of stands; what it was killed in does or does not, and nothing is in between."""
    frames = []
    for _ in range(2):
        frames.append(warm.federation.round("count"))
        warm.federation.aggregator.give_up()
    rng, study = random.Random(SEED), warm.federation.policy.study.hash
    longest_s, ends = 0.012, list[int]()
    for number in range(KILLS):
        home = shutil.copytree(warm.folder, tmp_path / str(number))
        work = partial(go_through_everything, warm.agent, home, identities["a"], frames)
        end = in_a_child(work, rng.random() * longest_s)
        with closing(Ledger(home / "a.db", identities["a"])) as ledger:  # verifies the chain
            book, rounds = ledger.book, end.told.count("round")
            assert ledger.length - CHARGED_BEFORE - rounds in (0, 1), end
            assert len(ledger.unsettled()) <= ledger.length - CHARGED_BEFORE - rounds + ("released" not in end.told)
            assert book.dataset or "dataset" not in end.told
            assert study in book.reserved or "reserved" not in end.told or study in book.blocks
            assert study in book.blocks or "released" not in end.told
            assert study not in book.blocks or study not in book.reserved
            ledger.release(study, 8)  # the chain goes on from there
        with closing(Ledger(home / "a.db", identities["a"])) as again:
            assert again.length == ledger.length
        ends.append(len(end.told))
        shutil.rmtree(home)
    assert len(ends) == KILLS
    assert len(set(ends)) > 2, "the kills came at one moment"
