"""Rounds of several steps at real agents: what leaves, what is charged, and what a plugin between steps can do."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats  # type: ignore[import-untyped]
from tests.client.conftest import SUMS
from tests.client.federation import (
    GRADIENT_S,
    WEIGHTS,
    Clock,
    Federation,
    Identities,
    Join,
    Plugin,
    answered,
    decoded,
    is_sum,
    join_at,
    opened,
    records,
)

from synthfed.client.config import Ceiling
from synthfed.client.data import UnitData
from synthfed.client.entries import Charge
from synthfed.client.gate import Gate
from synthfed.client.local_steps import moved
from synthfed.client.train import LARGEST_WEIGHT, clipped_sum, read_payload
from synthfed.client.vault import Ledger
from synthfed.plugins.api import Array, LocalPart, Payload, PrivatePart
from synthfed.protocols.errors import BudgetExceeded, UnsupportedMechanism
from synthfed.protocols.keystream import KeyStream
from synthfed.protocols.privacy.accountant import epsilon
from synthfed.protocols.privacy.noise import discrete_gaussian
from synthfed.protocols.privacy.plan import box, charge, largest_entry, make_plan
from synthfed.protocols.privacy.sampling import random_places
from synthfed.protocols.secagg import messages
from synthfed.protocols.secagg.messages import Code, Refusal
from synthfed.protocols.secagg.policy import Policy
from synthfed.protocols.study import Study
from synthfed.protocols.sums import GRID, SCALE_BITS, Kind

STEPS = 4
ROUNDS = 60
NOBODY = UnitData(np.empty((0, 1)), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))


@dataclass
class Descent:
    """Moves all weights against the noised sum, and keeps what it was given."""

    met: list[tuple[int, Array]] = field(default_factory=list)

    def advance(self, name: str, payload: Payload, noised: Array, step: int) -> Payload:  # noqa: ARG002
        self.met.append((step, noised))
        ends = np.cumsum([array.size for array in payload.values()])[:-1]
        parts = zip(payload.items(), np.split(noised, ends), strict=True)
        return {name: (array - 0.05 * part.reshape(array.shape)).astype(np.float32) for (name, array), part in parts}


@pytest.fixture(scope="module")
def policy(study: Study) -> Policy:
    """The tiny plugin's critic in ``local``, four steps in a round."""
    local = study.model_copy(update={"privacy": study.privacy.model_copy(update={"mode": "local"})})
    critic = replace(SUMS[1], rounds=ROUNDS, steps=STEPS)
    return Policy(local, make_plan(local, (critic,)), b"code")


@pytest.fixture
def join(tmp_path: Path, policy: Policy, identities: Identities, tiny: PrivatePart) -> Iterator[Join]:
    with ExitStack() as stack:
        yield join_at(stack, tmp_path, policy, identities, tiny)


def kind_of(federation: Federation) -> Kind:
    (kind,) = federation.policy.plan.kinds
    return kind


def vector_of(federation: Federation) -> tuple[npt.NDArray[np.int64], KeyStream, KeyStream]:
    """Return what site a sends in a round, its masks taken off, with the round's streams of coins and noise."""
    answer = opened(federation.a, "a", federation.round("critic"))
    federation.aggregator.give_up()
    return answer.grid + answer.noise, KeyStream(answer.seeds.sample), KeyStream(answer.seeds.noise)


# What leaves.


def test_a_round_sends_the_sum_of_its_steps_each_with_fresh_coins_and_noise_at_weights_moved_by_the_one_before(
    join: Join, tiny: PrivatePart
) -> None:
    federation = join(local=Descent())
    kind, descent, data = kind_of(federation), Descent(), records()
    sent, sampling, noising = vector_of(federation)
    payload: Payload = read_payload(kind, WEIGHTS)
    grid_step, expected = kind.grid_step(1), np.zeros(kind.sum.dim, dtype=np.int64)
    for step in range(STEPS):
        batch = data.draw(sampling, kind.sum.sample_rate, kind.slots)
        total = clipped_sum(tiny, kind, payload, batch, places=random_places(sampling, len(batch), kind.slots))
        noised = np.rint(total / grid_step).astype(np.int64) + discrete_gaussian(noising, kind.sum.dim, SCALE_BITS)
        expected += noised
        payload = descent.advance("critic", payload, noised.astype(np.float64) * grid_step, step)
    np.testing.assert_array_equal(sent, expected)


def test_the_noise_of_a_round_is_that_of_all_its_steps_also_where_no_unit_is_sampled(join: Join) -> None:
    """600 values of variance 4 S^2 in 60 rounds; false alarm 1e-6 (chi-squared)."""
    federation = join(data=NOBODY, local=Descent())
    drawn = np.concatenate([vector_of(federation)[0] for _ in range(ROUNDS)])
    low, high = stats.chi2.ppf([5e-7, 1 - 5e-7], len(drawn))
    assert low < np.square(drawn / GRID).sum() / STEPS < high


def test_each_step_but_the_last_moves_the_weights_by_its_own_noised_sum(join: Join) -> None:
    descent = Descent()
    federation = join(local=descent)
    federation.reply("critic")
    assert [step for step, _ in descent.met] == list(range(STEPS - 1))
    assert len({noised.tobytes() for _, noised in descent.met}) == STEPS - 1


def test_three_sites_release_the_sum_of_their_vectors(join: Join) -> None:
    """Noise of each entry: sigma * sqrt(12); off by 12 of them: false alarm below 1e-30."""
    federation = join(data=NOBODY, local=Descent())
    frame, kind = federation.round("critic"), kind_of(federation)
    for site, agent in federation.agents.items():
        masked = decoded(answered(agent, frame))
        assert isinstance(masked, messages.Masked)
        federation.aggregator.add_masked(site, masked)
    total = federation.aggregator.total() * kind.grid_step(1)
    assert (np.abs(total) < 12 * kind.noise_multiplier * kind.sum.clip_norm * (3 * STEPS) ** 0.5).all()


# What is charged.


def test_all_steps_are_charged_before_the_first_and_a_death_among_them_costs_all(join: Join, policy: Policy) -> None:
    @dataclass
    class Dies:
        def advance(self, name: str, payload: Payload, noised: Array, step: int) -> Payload:  # noqa: ARG002
            assert federation.a.ledger.events() == [charge(kind, policy.study, 1)]
            raise KeyboardInterrupt

    federation = join(local=Dies())
    kind = kind_of(federation)
    with pytest.raises(KeyboardInterrupt):
        federation.reply("critic")
    federation.aggregator.give_up()
    assert federation.a.ledger.events() == [charge(kind, policy.study, 1)]
    assert federation.a.ledger.unsettled() == (1,)
    assert federation.code("critic") is Code.STOPPED


def test_all_rounds_together_cost_the_promise(join: Join, policy: Policy) -> None:
    federation = join(local=Descent())
    for _ in range(ROUNDS):
        assert is_sum(federation.reply("critic"))
    assert federation.code("critic") is Code.BUDGET
    (event,) = federation.a.ledger.events()
    assert event.count == STEPS * ROUNDS
    assert epsilon([event], policy.study.privacy.delta) == policy.plan.epsilon <= policy.study.privacy.epsilon


def test_the_ceiling_stops_before_the_round_whose_steps_would_pass_it(
    policy: Policy, identities: Identities, tmp_path: Path
) -> None:
    (kind,) = policy.plan.kinds
    two, three = (epsilon([charge(kind, policy.study, count)], 1e-5) for count in (2, 3))
    ledger = Ledger(tmp_path / "ledger.db", identities["a"], create=True)
    gate = Gate(policy, Ceiling(epsilon=(two + three) / 2, delta=1e-5), ledger)
    for counter in (1, 2):
        cost = gate.check(kind)
        ledger.charge(Charge(policy.study.hash, "first", "critic", b"t", counter, b"c", cost))
    with pytest.raises(BudgetExceeded, match="would pass the site's ceiling"):
        gate.check(kind)
    ledger.close()


def test_a_round_that_overruns_between_its_steps_is_given_up_and_stays_charged(join: Join, policy: Policy) -> None:
    clock = Clock()

    @dataclass
    class Slow(Descent):
        def advance(self, name: str, payload: Payload, noised: Array, step: int) -> Payload:
            clock.now += GRADIENT_S
            return super().advance(name, payload, noised, step)

    federation = join(local=Slow(), clock=clock)
    assert decoded(federation.reply("critic")) == Refusal(Code.ABANDONED)
    assert federation.a.ledger.events() == [charge(kind_of(federation), policy.study, 1)]
    assert federation.a.ledger.overruns() == 1


# A hostile plugin between two steps.


@dataclass(frozen=True)
class Throws:
    """Sends the weights to a value, whatever the sum was."""

    value: float

    def advance(self, name: str, payload: Payload, noised: Array, step: int) -> Payload:  # noqa: ARG002
        return {name: np.full(array.shape, self.value) for name, array in payload.items()}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300, -1e300])
def test_weights_that_run_away_are_brought_back_and_every_steps_sum_stays_bounded(join: Join, value: float) -> None:
    federation = join(data=records(offset=1e150), local=Throws(value))
    kind = kind_of(federation)
    sent, _, noising = vector_of(federation)
    noise = sum(discrete_gaussian(noising, kind.sum.dim, SCALE_BITS) for _ in range(STEPS))
    limit = largest_entry(federation.policy.study, kind)
    assert limit <= STEPS * box(federation.policy.study, kind.ring_bits, STEPS)
    assert np.linalg.norm((sent - noise).astype(float)) <= limit + STEPS * kind.sum.dim
    assert federation.a.ledger.failures() == 0


def test_what_is_moved_stays_within_what_a_coordinator_may_send(join: Join) -> None:
    kind = kind_of(join())
    payload = read_payload(kind, WEIGHTS)
    for value, expected in ((np.nan, 0.0), (np.inf, LARGEST_WEIGHT), (-1e300, -LARGEST_WEIGHT), (0.5, 0.5)):
        found = moved(Throws(value), kind, payload, np.zeros(10), 0)
        assert all(array.dtype == np.float32 and (array == expected).all() for array in found.values())


class Renames:
    def advance(self, name: str, payload: Payload, noised: Array, step: int) -> Payload:  # noqa: ARG002
        return {name.upper(): array for name, array in payload.items()}


class Flattens:
    def advance(self, name: str, payload: Payload, noised: Array, step: int) -> Payload:  # noqa: ARG002
        return {name: array.ravel() for name, array in payload.items()}


class Fails:
    def advance(self, name: str, payload: Payload, noised: Array, step: int) -> Payload:  # noqa: ARG002
        raise ValueError("0.123")


@pytest.mark.parametrize("local", [Renames(), Flattens()])
def test_a_payload_of_another_form_is_refused(join: Join, local: LocalPart) -> None:
    kind = kind_of(join())
    with pytest.raises(UnsupportedMechanism, match="steps of 'critic' the payload lost its declared arrays"):
        moved(local, kind, read_payload(kind, WEIGHTS), np.zeros(10), 0)


@pytest.mark.parametrize("local", [Renames(), Flattens(), Fails()])
def test_a_plugin_that_fails_between_two_steps_is_answered_for_at_the_time_and_muted_from_then_on(
    join: Join, tiny: PrivatePart, local: LocalPart, caplog: pytest.LogCaptureFixture
) -> None:
    met: list[int] = []
    federation = join(private=Plugin(tiny, lambda batch: met.append(len(batch))), local=local)
    kind, start_s = kind_of(federation), federation.clock.now
    reply = federation.reply("critic")
    assert is_sum(reply)
    assert reply.due_s == start_s + GRADIENT_S
    assert federation.a.ledger.failures() == 1
    assert "0.123" not in caplog.text
    first = len(met)
    sent, _, noising = vector_of(federation)
    assert len(met) == first  # of the failed round the first step alone had met records, of this one none
    noise = sum(discrete_gaussian(noising, kind.sum.dim, SCALE_BITS) for _ in range(STEPS))
    np.testing.assert_array_equal(sent, noise)
    assert federation.a.ledger.failures() == 1
