"""Kill -9 at every line of the way from a round to its answer, then a restart over the same ledger."""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.client.federation import AMPLE, Federation, Identities, answered, decoded, is_sum, join_at

from synthfed.client import agent, anchor, entries, gate, vault
from synthfed.client.agent import Agent
from synthfed.client.gate import Gate
from synthfed.client.vault import Ledger
from synthfed.plugins.api import PrivatePart
from synthfed.protocols.secagg import site
from synthfed.protocols.secagg.messages import Code, Refusal
from synthfed.protocols.secagg.policy import Policy

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

SUBMIT_PATH = {
    str(module.__file__): module.__name__.rpartition(".")[2] for module in (agent, anchor, entries, gate, vault, site)
}
CHARGED_BEFORE = 1

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


@pytest.fixture(scope="module")
def before(
    tmp_path_factory: pytest.TempPathFactory, policy: Policy, identities: Identities, tiny: PrivatePart
) -> tuple[Path, Federation]:
    """Return ledgers after a handshake and one settled round, all of them closed, and who shook hands."""
    folder = tmp_path_factory.mktemp("before")
    with ExitStack() as stack:
        federation = join_at(stack, folder, policy, identities, tiny)()
        assert is_sum(federation.reply("critic"))
    return folder, federation


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


def answer_in_a_child(ready: Agent, folder: Path, identity: Ed25519PrivateKey, frame: bytes, wanted: int) -> End:
    """Let a child, in the state after the handshake, answer a round over its own copy of the ledger."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.dup2(writer, 1)
            ledger = Ledger(folder / "a.db", identity)
            own = replace(ready, ledger=ledger, gate=Gate(ready.policy, AMPLE, ledger))
            sys.settrace(killer(wanted))
            reply = answered(own, frame)
            sys.settrace(None)
            os.write(1, b"answered\n" if is_sum(reply) else b"refused\n")
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        end = End(tuple(pipe.read().split()))
    _, status = os.waitpid(child, 0)
    assert end.has_answered or os.WTERMSIG(status) == signal.SIGKILL
    return end


def test_kill_9_at_every_line_of_a_submission_leaves_a_verified_ledger_charged_before_any_coin_and_stops_the_agent(
    before: tuple[Path, Federation], tmp_path: Path, policy: Policy, identities: Identities, tiny: PrivatePart
) -> None:
    """Every line of agent, gate, vault and site machine from the frame to its answer, one child each.

    An agent killed with no step open serves again; that is looked at after every eighth line.
    """
    folder, federation = before
    frame = federation.round("count")
    places: list[str] = []
    outcomes: list[tuple[int, bool]] = []
    while True:
        home = shutil.copytree(folder, tmp_path / "home")
        end = answer_in_a_child(federation.a, home, identities["a"], frame, len(places) + 1)
        if end.has_answered:
            break
        places.append(end.place)
        with ExitStack() as stack:
            again = join_at(stack, home, policy, identities, tiny)(shaken=False)  # verifies the chain
            ledger = again.a.ledger
            is_charged, is_open = ledger.length > CHARGED_BEFORE, bool(ledger.unsettled())
            assert ledger.length in (CHARGED_BEFORE, CHARGED_BEFORE + 1), end
            assert is_charged or not end.had_secrets, end
            outcomes.append((ledger.length, is_open))
            if is_open:
                assert is_charged
                assert decoded(answered(again.a, frame)) == Refusal(Code.STOPPED), end
                assert ledger.length == CHARGED_BEFORE + 1
            elif len(places) % 8 == 1:
                assert decoded(answered(again.a, frame)) == Refusal(Code.PROTOCOL), end  # its session is gone
                again.shake_hands(b"m" * 32)
                assert is_sum(again.reply())
        shutil.rmtree(home)
    assert outcomes == sorted(outcomes, key=lambda each: (each[0], not each[1]))
    assert set(outcomes) == {(CHARGED_BEFORE, False), (CHARGED_BEFORE + 1, True), (CHARGED_BEFORE + 1, False)}
    functions = {place.partition(":")[0] for place in places}
    assert functions >= {
        *("agent.answer", "agent._round", "agent._charged", "agent._total", "agent._on_grid"),
        *("gate.check", "entries.charged", "entries.seal", "entries.add"),
        *("vault.charge", "vault._append", "vault._transaction", "vault.settle", "anchor.write_anchor"),
        *("site.accept", "site.commit", "site.mask"),
    }
