"""The agent, fed with encoded frames only: what it refuses, charges, repeats, delays, and when it stops."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.client.federation import (
    GRADIENT_S,
    STATISTIC_S,
    UNITS,
    WEIGHTS,
    Clock,
    Federation,
    Identities,
    Join,
    Plugin,
    answered,
    decoded,
    is_sum,
    records,
)

from synthfed.client.agent import OVERRUNS_ALLOWED
from synthfed.client.config import Ceiling
from synthfed.client.data import UnitData
from synthfed.client.entries import Charge
from synthfed.plugins.api import Array, PrivatePart
from synthfed.protocols.errors import BudgetExceeded, PrivacyError, RemoteProtocolError
from synthfed.protocols.privacy.accountant import SampledGaussian
from synthfed.protocols.secagg import keys, messages, table
from synthfed.protocols.secagg.aggregator import Aggregator
from synthfed.protocols.secagg.messages import Code, Refusal
from synthfed.protocols.secagg.policy import Policy
from synthfed.protocols.wire import HEADER, MAGIC, VERSION, Frame


class Watched(UnitData):
    """Records that tell before they are sampled."""

    def draw(self, stream: object, sample_rate: float, slots: int) -> Array:  # noqa: ARG002
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("not reached")


def test_three_agents_answer_a_statistic_with_the_sum_of_their_records_and_noise(federation: Federation) -> None:
    """Noise std is about 8; off by 12 of them: false alarm below 1e-30."""
    frame = federation.round("count")
    for site, agent in federation.agents.items():
        masked = decoded(answered(agent, frame))
        assert isinstance(masked, messages.Masked)
        federation.aggregator.add_masked(site, masked)
    kind = federation.policy.plan.kind("count")
    assert kind is not None
    total = federation.aggregator.total() * kind.grid_step(2)
    expected = 3 * np.array([UNITS, (np.arange(UNITS) / UNITS).sum()])
    assert (np.abs(total - expected) < 12 * kind.noise_multiplier * kind.sum.clip_norm * 1.5**0.5).all()
    assert [agent.ledger.length for agent in federation.agents.values()] == [1, 1, 1]
    assert not any(agent.ledger.unsettled() for agent in federation.agents.values())


def test_a_probe_is_answered_at_once_and_not_charged(federation: Federation) -> None:
    probe = federation.aggregator.probe(("a", "b", "c"))
    reply = answered(federation.a, messages.encode(probe, 5))
    assert is_sum(reply)
    assert reply.due_s == federation.clock.now
    assert federation.a.ledger.length == 0


@pytest.mark.parametrize("kind", ["count", "critic"])
def test_the_same_round_again_returns_the_same_bytes_computed_and_charged_once(
    join: Join, tiny: PrivatePart, kind: str
) -> None:
    met: list[int] = []
    federation = join(private=Plugin(tiny, lambda batch: met.append(len(batch))))
    frame = federation.round(kind)
    first, again = answered(federation.a, frame), answered(federation.a, frame)
    assert is_sum(first)
    assert first.frame == again.frame
    assert len(met) == 1
    assert federation.a.ledger.length == 1
    assert again.due_s == federation.clock.now


def test_the_same_payload_under_a_new_counter_is_fresh_and_charged_again(federation: Federation) -> None:
    first, second = decoded(federation.reply()), decoded(federation.reply())
    assert isinstance(first, messages.Masked)
    assert isinstance(second, messages.Masked)
    assert first.words != second.words
    assert federation.a.ledger.length == 2


@pytest.mark.parametrize(("kind", "answer_s"), [("count", STATISTIC_S), ("critic", GRADIENT_S)])
def test_a_reply_is_due_the_declared_time_after_the_charge(join: Join, kind: str, answer_s: float) -> None:
    federation = join()
    federation.clock.tick_s = 2**-10
    received_s = federation.clock.now + 2**-10
    reply = federation.reply(kind)
    charged_s = received_s + 2**-10  # the second look at the clock, after the charge
    assert is_sum(reply)
    assert reply.due_s == charged_s + answer_s


@pytest.mark.parametrize("took", [0.0, 0.3, 0.999])
@pytest.mark.parametrize("kind", ["count", "critic"])
def test_a_step_within_its_time_is_due_at_the_same_moment_however_long_it_took(
    join: Join, tiny: PrivatePart, kind: str, took: float
) -> None:
    clock = Clock()
    answer_s = STATISTIC_S if kind == "count" else GRADIENT_S

    def work(batch: Array) -> None:
        clock.now += took * answer_s

    federation = join(private=Plugin(tiny, work), clock=clock)
    start_s = clock.now
    reply = federation.reply(kind)
    assert is_sum(reply)
    assert reply.due_s == start_s + answer_s


@pytest.mark.parametrize(("took", "slots"), [(1.01, 2), (1.99, 2), (2.5, 3), (7.2, 8)])
def test_a_step_that_overruns_is_abandoned_charged_and_answered_at_the_next_multiple(
    join: Join, tiny: PrivatePart, took: float, slots: int
) -> None:
    clock = Clock()

    def work(batch: Array) -> None:
        clock.now += took * STATISTIC_S

    federation = join(private=Plugin(tiny, work), clock=clock)
    start_s = clock.now
    frame = federation.round("count")
    reply = answered(federation.a, frame)
    assert decoded(reply) == Refusal(Code.ABANDONED)
    assert reply.leaves_s(clock.now) == pytest.approx(start_s + slots * STATISTIC_S)
    assert reply.leaves_s(clock.now) >= clock.now
    assert federation.a.ledger.length == 1
    assert federation.a.ledger.unsettled() == ()
    assert decoded(answered(federation.a, frame)) == Refusal(Code.PROTOCOL)  # the counter is burnt
    assert federation.a.ledger.length == 1


def test_after_ten_overruns_the_agent_stops_for_a_person(join: Join, tiny: PrivatePart) -> None:
    clock = Clock()

    def work(batch: Array) -> None:
        clock.now += 10

    federation = join(private=Plugin(tiny, work), clock=clock)
    codes = [federation.code("count") for _ in range(4)] + [federation.code("critic") for _ in range(6)]
    assert codes == [Code.ABANDONED] * 10
    assert federation.code("critic") == Code.STOPPED
    assert federation.a.ledger.length == 10


def test_an_agent_answers_again_after_an_overrun(join: Join, tiny: PrivatePart) -> None:
    clock, slow = Clock(), [10.0, 0.0]

    def work(batch: Array) -> None:
        clock.now += slow.pop(0)

    federation = join(private=Plugin(tiny, work), clock=clock)
    assert federation.code() == Code.ABANDONED
    assert is_sum(federation.reply())


@pytest.mark.parametrize("kind", ["count", "critic"])
@pytest.mark.parametrize("error", [ValueError, ZeroDivisionError, MemoryError, RemoteProtocolError, BudgetExceeded])
def test_a_plugin_that_raises_on_a_record_is_answered_by_noise_on_time_like_every_later_step(
    join: Join, tiny: PrivatePart, error: type[Exception], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(batch: Array) -> None:
        if (batch > 0.9).any():
            raise error("a record")

    federation = join(private=Plugin(tiny, fail), data=records(offset=1.0))
    frame = federation.round(kind)
    reply = answered(federation.a, frame)
    federation.aggregator.give_up()
    assert is_sum(reply)
    assert reply.due_s > 0
    assert reply.slot_s > 0
    assert "a record" not in caplog.text
    assert error.__name__ in caplog.text
    assert federation.a.ledger.length == 1
    assert (federation.a.ledger.unsettled(), federation.a.ledger.failures()) == ((), 1)
    assert is_sum(federation.reply(kind))  # nobody outside sees that something failed
    assert federation.a.ledger.length == 2


def test_after_a_failure_no_record_is_met_until_a_person_clears_the_ledger(join: Join, tiny: PrivatePart) -> None:
    def fail(batch: Array) -> None:
        raise ValueError("a record")

    assert is_sum(join(private=Plugin(tiny, fail)).reply())
    met: list[Array] = []
    again = join(private=Plugin(tiny, met.append))  # the agent is started anew over the same ledger
    assert is_sum(again.reply("count"))
    assert is_sum(again.reply("critic"))
    assert (met, again.a.ledger.length) == ([], 3)
    assert again.a.ledger.clear() == 1
    assert is_sum(again.reply())
    assert (len(met), again.a.ledger.length) == (1, 4)


def test_a_failure_in_a_step_that_also_overran_is_not_forgotten(join: Join, tiny: PrivatePart) -> None:
    clock = Clock()

    def fail(batch: Array) -> None:
        clock.now += 10.0
        raise ValueError("a record")

    federation = join(private=Plugin(tiny, fail), clock=clock)
    assert federation.code() == Code.ABANDONED
    assert federation.a.ledger.failures() == 1


def test_a_step_that_was_never_settled_stops_the_agent_until_a_person_clears_it(join: Join) -> None:
    event = SampledGaussian(0.5, 2.0, 1)
    join().a.ledger.charge(Charge(b"s" * 32, "first", "count", b"t" * 32, 1, b"c" * 32, event))  # and then it died
    again = join()
    assert again.code("count") == Code.STOPPED
    assert again.code("critic") == Code.STOPPED
    assert again.a.ledger.length == 1
    assert again.a.ledger.clear() == 1
    assert is_sum(again.reply())
    assert again.a.ledger.length == 2


def test_overruns_are_counted_over_restarts_until_a_person_clears_them(join: Join, tiny: PrivatePart) -> None:
    for kind in ["count"] * 4 + ["critic"] * 6:
        clock = Clock()

        def work(batch: Array, clock: Clock = clock) -> None:
            clock.now += 10.0

        assert join(private=Plugin(tiny, work), clock=clock).code(kind) == Code.ABANDONED
    restarted = join()
    assert restarted.code("critic") == Code.STOPPED
    assert restarted.a.ledger.clear() == OVERRUNS_ALLOWED == 10
    assert restarted.code("critic") == Code.BUDGET  # every round of the study was charged


def test_a_reached_cap_is_refused_as_budget_and_charged_no_further(federation: Federation) -> None:
    assert all(is_sum(federation.reply("count")) for _ in range(4))
    assert federation.code("count") == Code.BUDGET
    assert federation.a.ledger.length == 4
    assert is_sum(federation.reply("critic"))


def test_caps_hold_over_sessions_and_restarts(join: Join) -> None:
    answered = 0
    for start in range(6):
        federation = join()
        federation.shake_hands(bytes([start]) * 32)
        answered += is_sum(federation.reply("count"))
    assert answered == 4
    assert federation.a.ledger.length == 4


def test_a_reached_ceiling_is_refused_as_budget_and_nothing_is_charged(join: Join) -> None:
    federation = join(ceiling=Ceiling(epsilon=0.01, delta=1e-5))
    assert federation.code("count") == Code.BUDGET
    assert federation.code("critic") == Code.BUDGET
    assert federation.a.ledger.length == 0


ROUNDS: dict[str, messages.Round] = {
    "no cohort": messages.Round(1, (), "count", b""),
    "below the quorum": messages.Round(1, ("a", "b"), "count", b""),
    "without this site": messages.Round(1, ("b", "c"), "count", b""),
    "a stranger": messages.Round(1, ("a", "b", "c", "d"), "count", b""),
    "unsorted": messages.Round(1, ("a", "c", "b"), "count", b""),
    "a site twice": messages.Round(1, ("a", "a", "b", "c"), "count", b""),
    "counter zero": messages.Round(0, ("a", "b", "c"), "count", b""),
    "counter too far": messages.Round(2**16, ("a", "b", "c"), "count", b""),
    "counter huge": messages.Round(2**64 - 1, ("a", "b", "c"), "count", b""),
    "unknown kind": messages.Round(1, ("a", "b", "c"), "other", b""),
    "probe with payload": messages.Round(1, ("a", "b", "c"), "probe", b"1234"),
    "payload too long": messages.Round(1, ("a", "b", "c"), "count", b"1234"),
    "payload too short": messages.Round(1, ("a", "b", "c"), "critic", WEIGHTS[:-4]),
    "NaN": messages.Round(1, ("a", "b", "c"), "critic", WEIGHTS[:-4] + np.float32(np.nan).tobytes()),
    "1e38": messages.Round(1, ("a", "b", "c"), "critic", WEIGHTS[:-4] + np.float32(1e38).tobytes()),
}


@pytest.mark.parametrize("message", ROUNDS.values(), ids=ROUNDS.keys())
def test_a_malformed_round_is_refused_alike_and_neither_charged_nor_computed(
    join: Join, tiny: PrivatePart, message: messages.Round
) -> None:
    met: list[Array] = []
    federation = join(private=Plugin(tiny, met.append))
    reply = answered(federation.a, messages.encode(message, 77))
    assert reply.frame == messages.encode(Refusal(Code.PROTOCOL), 77)
    assert reply.due_s == federation.clock.now
    assert (federation.a.ledger.length, met) == (0, [])
    assert is_sum(federation.reply())  # the counter was not burnt


@pytest.mark.parametrize(
    "message",
    [
        messages.Roll(()),
        messages.Seal(()),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_request_out_of_turn_is_refused_by_the_one_constant(
    federation: Federation, message: messages.Message
) -> None:
    assert answered(federation.a, messages.encode(message, 9)).frame == messages.encode(Refusal(Code.PROTOCOL), 9)
    assert is_sum(federation.reply())


def test_a_round_before_the_handshake_is_refused(join: Join) -> None:
    federation = join(shaken=False)
    round_ = messages.encode(messages.Round(1, ("a", "b", "c"), "count", b""), 3)
    assert answered(federation.a, round_).frame == messages.encode(Refusal(Code.PROTOCOL), 3)
    assert federation.a.ledger.length == 0


GARBAGE = {
    "nothing": b"",
    "one byte": b"S",
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "unknown type": Frame(99, 0, b"").encode(),
    "type zero": Frame(0, 0, b"").encode(),
    "another version": HEADER.pack(MAGIC, VERSION + 1, 7, 0, 0),
    "longer than it says": Frame(1, 0, b"n" * 36).encode() + b"x",
    "shorter than it says": HEADER.pack(MAGIC, VERSION, 7, 0, 100) + b"x" * 99,
    "a field too long": Frame(7, 0, b"\xff" * 64).encode(),
    **{
        f"the answer {type(message).__name__}": messages.encode(message, 9)
        for message in (
            messages.Ready(),
            Refusal(Code.PROTOCOL),
            messages.Masked(b"c" * 32, b"", b"", b"s" * 64),
            messages.Confirm("b", b"t" * 32, (), b"s" * 64),
            messages.Hello("b", b"n" * 32, b"x" * 32, b"k" * 1184, b"n" * 32, 0, bytes(32), b"s" * 64),
        )
    },
}


@pytest.mark.parametrize("frame", GARBAGE.values(), ids=GARBAGE.keys())
def test_an_unknown_frame_closes_the_session_and_a_new_one_can_be_opened(federation: Federation, frame: bytes) -> None:
    assert federation.a.answer(frame) is None
    assert federation.a.machine.state is table.Site.IDLE
    assert federation.a.machine.transcript == b""
    assert federation.code() == Code.PROTOCOL
    assert federation.a.ledger.length == 0
    federation.shake_hands(b"m" * 32)
    assert is_sum(federation.reply())


def test_an_unknown_frame_takes_the_masked_sum_with_it(federation: Federation) -> None:
    frame = federation.round("count")
    assert is_sum(answered(federation.a, frame))
    assert federation.a.answer(b"?") is None
    assert decoded(answered(federation.a, frame)) == Refusal(Code.PROTOCOL)
    assert federation.a.ledger.length == 1


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(type_=st.integers(0, 255), body=st.binary(max_size=200), flip=st.integers(0, 10**6))
def test_no_frame_makes_the_agent_raise_or_charge(federation: Federation, type_: int, body: bytes, flip: int) -> None:
    good = bytearray(messages.encode(messages.Round(1, ("a", "b", "c"), "none", WEIGHTS), 0))
    good[flip % len(good)] ^= 1 + flip % 255
    before = federation.a.ledger.length
    for frame in (body, Frame(type_, 0, body).encode(), bytes(good)):
        reply = federation.a.answer(frame)
        answer = decoded(reply) if reply else None
        if not isinstance(answer, messages.Hello):
            assert answer in (None, Refusal(Code.PROTOCOL))
    assert federation.a.ledger.length == before


def test_an_unwritable_ledger_stops_the_agent_before_anything_is_computed(join: Join, tiny: PrivatePart) -> None:
    met: list[Array] = []
    federation = join(private=Plugin(tiny, met.append))
    federation.a.ledger._db.execute("PRAGMA query_only = ON")
    with pytest.raises(PrivacyError, match="cannot be written"):
        federation.reply()
    assert (federation.a.ledger.length, met) == (0, [])


def test_a_peer_whose_journal_was_rolled_back_is_refused(join: Join, tmp_path: Path) -> None:
    federation = join()
    frame = federation.round("count")
    for agent in federation.agents.values():
        agent.answer(frame)
    federation = join()  # everyone has now seen journals of length 1
    federation.agents["b"].ledger.close()
    (tmp_path / "b.db").unlink()
    federation = join(shaken=False)
    federation.aggregator = Aggregator(federation.policy, b"m" * 32)
    for site in federation.agents:
        hello = federation.ask(site, federation.aggregator.open())
        assert isinstance(hello, messages.Hello)
        federation.aggregator.add_hello(site, hello)
    roll = federation.aggregator.roll()
    assert federation.ask("a", roll) == Refusal(Code.PROTOCOL)
    assert federation.ask("c", roll) == Refusal(Code.PROTOCOL)


def test_a_lying_site_with_an_absurd_journal_length_cannot_stop_the_others(
    join: Join, policy: Policy, identities: Identities
) -> None:
    federation = join(shaken=False)
    hellos = [federation.ask(site, messages.Open(b"n" * 32)) for site in ("a", "c")]
    x25519, kem = keys.Ephemeral.generate(policy.suite).public
    lie = messages.Hello("b", b"n" * 32, x25519, kem, b"f" * 32, 2**63, bytes(32), bytes(64))
    lie = replace(lie, signature=keys.sign(identities["b"], lie.signed(policy.hash)))
    roll = messages.Roll(tuple(hello for hello in (hellos[0], lie, hellos[1]) if isinstance(hello, messages.Hello)))
    with pytest.raises(RemoteProtocolError):  # an honest coordinator never passes it on
        messages.decode(messages.encode(lie, 3))
    assert federation.a.answer(messages.encode(roll, 4)) is None
    federation.shake_hands(b"m" * 32)
    assert is_sum(federation.reply())


def test_a_peer_that_states_a_leap_once_moves_no_floor_and_is_met_again_at_its_true_length(
    join: Join, policy: Policy, identities: Identities
) -> None:
    federation = join()
    assert is_sum(federation.reply())
    for site in ("b", "c"):
        assert is_sum(answered(federation.agents[site], federation.round("count")))
        federation.aggregator.give_up()
    federation.shake_hands(b"m" * 32)
    floors = federation.a.ledger.journal_floors()
    assert floors[policy.study.cohort.keys["b"].hex()] == 1
    answers = [federation.ask(site, messages.Open(b"k" * 32)) for site in ("a", "b", "c")]
    hellos = [hello for hello in answers if isinstance(hello, messages.Hello)]
    lie = replace(hellos[1], journal_length=2**62)
    lie = replace(lie, signature=keys.sign(identities["b"], lie.signed(policy.hash)))
    roll = messages.Roll((hellos[0], lie, hellos[2]))
    assert [federation.ask(site, roll) for site in ("a", "c")] == 2 * [Refusal(Code.PROTOCOL)]
    assert federation.a.ledger.journal_floors() == floors
    federation.shake_hands(b"l" * 32)
    assert is_sum(federation.reply())


KILLED = {
    "at the charge's commit": ("COMMIT", 0),
    "when units are to be sampled": ("draw", 1),
    "when a record is met": ("meet", 1),
    "before the outcome is noted": ("'outcome'", 1),
}


@pytest.mark.parametrize(("where", "entries"), KILLED.values(), ids=KILLED.keys())
def test_kill_9_inside_a_step_leaves_a_verified_ledger_with_the_charge_first(
    join: Join, tiny: PrivatePart, tmp_path: Path, where: str, entries: int
) -> None:
    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        try:
            data = records(Watched) if where == "draw" else records()
            federation = join(data=data, private=Plugin(tiny, die if where == "meet" else len))
            federation.a.ledger._db.set_trace_callback(lambda sql: die() if where in sql else None)
            federation.reply()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    federation = join()
    assert federation.a.ledger.length == entries
    assert federation.a.ledger.unsettled() == tuple(range(1, entries + 1))
    if entries:
        assert federation.code() == Code.STOPPED
    else:
        assert is_sum(federation.reply())
