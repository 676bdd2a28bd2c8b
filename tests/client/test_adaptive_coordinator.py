"""A coordinator that chooses every move by what it has seen, over sessions and restarts: what it gets is the plan."""

import math
import random
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from tests.client.federation import (
    AMPLE,
    GRADIENT_S,
    STATISTIC_S,
    WEIGHTS,
    Clock,
    Federation,
    Identities,
    Plugin,
    answered,
    decoded,
    is_sum,
    join_at,
)

from synthfed.client.config import Ceiling
from synthfed.plugins.api import Array, PrivatePart
from synthfed.protocols.privacy.accountant import OVERFLOW_SHARE
from synthfed.protocols.privacy.plan import charge
from synthfed.protocols.secagg import messages
from synthfed.protocols.secagg.messages import Code, Refusal
from synthfed.protocols.secagg.policy import Policy

MOVES = ["round"] * 6 + ["repeat", "new payload", "overrun", "give up", "bad round", "session", "restart", "garbage"]


class Adaptive:
    """Draws every move from a generator that is seeded anew with each answer."""

    def __init__(self, seed: int) -> None:
        self.seen = random.Random(seed)

    def sees(self, answer: bytes) -> None:
        self.seen = random.Random(self.seen.randbytes(8) + answer)

    def payload(self, kind: str) -> bytes:
        if kind != "critic":
            return b""
        return bytes(WEIGHTS[:-1]) + bytes([self.seen.choice(range(0x30, 0x44))])  # the last weight's exponent


def multiset(policy: Policy) -> Counter[tuple[float, float]]:
    """Return what the caps pay for: each kind's sampling rate and accounted noise, cap times."""
    events = [charge(kind, policy.study, kind.sum.rounds) for kind in policy.plan.kinds]
    return Counter({(event.sample_rate, event.noise_multiplier): event.count for event in events})


def charged(federation: Federation) -> Counter[tuple[float, float]]:
    events = federation.a.ledger.events()
    return Counter({(event.sample_rate, event.noise_multiplier): event.count for event in events})


@pytest.mark.parametrize("seed", range(4))
def test_whatever_an_adaptive_coordinator_asks_over_sessions_and_restarts_it_gets_the_caps_and_no_round_more(
    tmp_path: Path, policy: Policy, identities: Identities, tiny: PrivatePart, seed: int
) -> None:
    """The ledger then holds the plan's multiset exactly, whose cost the promise covers; every sum was charged."""
    coordinator, clock = Adaptive(seed), Clock()
    slow = [False]

    def work(batch: Array) -> None:
        clock.now += slow.pop() * 2 * (STATISTIC_S + GRADIENT_S) if slow else 0.0

    promise = Ceiling(epsilon=policy.study.privacy.epsilon, delta=policy.study.privacy.delta)
    ceiling = promise if seed % 2 else AMPLE  # the ceiling must cover the caps, and the caps must hold without it
    sums: set[bytes] = set()
    refused: set[str] = set()
    overruns, allowed = 0, multiset(policy)

    with ExitStack() as stack:

        def started() -> Federation:
            join = join_at(stack, tmp_path, policy, identities, tiny)
            return join(private=Plugin(tiny, work), clock=clock, ceiling=ceiling)

        federation = started()
        frame, asked_kind = b"", ""
        for turn in range(1000):
            kind, move = coordinator.seen.choice(["count", "critic"]), coordinator.seen.choice(MOVES)
            slow[:] = []
            if move == "restart":
                federation = started()
            elif move == "session":
                federation.shake_hands(turn.to_bytes(32, "little"))
            elif move == "garbage":
                assert federation.a.answer(coordinator.seen.randbytes(30)) is None
                federation.shake_hands(turn.to_bytes(32, "little"))
            else:
                if move != "repeat" or not frame:
                    asked = federation.aggregator.round(("a", "b", "c"), kind, coordinator.payload(kind))
                    federation.aggregator.give_up()
                    cohort = ("a", "b") if move == "bad round" else asked.cohort
                    asked_kind = kind
                    frame = messages.encode(messages.Round(asked.counter, cohort, kind, asked.payload), 1)
                slow[:] = [move == "overrun" and overruns < 3]
                before = federation.a.ledger.length
                reply = answered(federation.a, frame)
                coordinator.sees(reply.frame)
                answer = decoded(reply)
                if is_sum(reply):
                    assert federation.a.ledger.length == before + (reply.frame not in sums)
                    sums.add(reply.frame)
                elif answer == Refusal(Code.ABANDONED):
                    assert federation.a.ledger.length == before + 1
                    overruns += 1
                else:
                    assert federation.a.ledger.length == before
                    assert isinstance(answer, Refusal)
                    if answer.code == Code.BUDGET:
                        refused.add(asked_kind)
            assert charged(federation) <= allowed
            if charged(federation) == allowed and refused == {"count", "critic"}:
                break
        assert refused == {"count", "critic"}
        assert charged(federation) == allowed
        assert len(sums) + overruns == allowed.total()
        assert federation.a.gate.standings()[0].spent == pytest.approx(policy.plan.epsilon, rel=1e-9)
        assert federation.a.gate.standings()[0].spent <= promise.epsilon


def test_the_caps_cost_what_another_accountant_says_of_the_multiset(policy: Policy) -> None:
    """By dp-accounting's own accountant from the specification's formula, at the delta without the set-aside tenth."""
    study = policy.study
    accountant = PLDAccountant(value_discretization_interval=1e-3)
    for kind in policy.plan.kinds:
        shares = study.cohort.quorum - study.cohort.tolerated
        factor = 1 + kind.noise_multiplier * math.sqrt(kind.sum.dim) / (math.sqrt(shares) * 2**18)
        noise = dp_event.GaussianDpEvent(kind.noise_multiplier * math.sqrt(1 - 16 / 2**36) / factor)
        sampled = dp_event.PoissonSampledDpEvent(kind.sum.sample_rate, noise)
        accountant.compose(dp_event.SelfComposedDpEvent(sampled, kind.sum.rounds))
    found = accountant.get_epsilon(study.privacy.delta * (1 - OVERFLOW_SHARE))
    assert policy.plan.epsilon == pytest.approx(found, rel=2e-3)
    assert policy.plan.epsilon <= study.privacy.epsilon
