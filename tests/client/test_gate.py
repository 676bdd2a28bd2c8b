"""The site's veto: caps per kind, and the ceiling over everything the ledger holds, step by step."""

import math
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.client.federation import Identities

from synthfed.client.config import Ceiling
from synthfed.client.entries import Charge
from synthfed.client.gate import Gate
from synthfed.client.vault import Ledger
from synthfed.protocols.errors import BudgetExceeded, ConfigError
from synthfed.protocols.privacy.accountant import SampledGaussian, epsilon
from synthfed.protocols.privacy.plan import charge
from synthfed.protocols.secagg.policy import Policy

DELTA = 1e-5
AMPLE = Ceiling(epsilon=100.0, delta=DELTA)


@pytest.fixture
def ledger(tmp_path: Path, identities: Identities) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "ledger.db", identities["a"], create=True)) as opened:
        yield opened


def cost(policy: Policy, name: str) -> SampledGaussian:
    kind = policy.plan.kind(name)
    assert kind is not None
    return charge(kind, policy.study, 1)


def pay(gate: Gate, ledger: Ledger, policy: Policy, name: str) -> None:
    """Ask the gate and, where it lets the step through, charge it."""
    kind = policy.plan.kind(name)
    assert kind is not None
    study = policy.study
    ledger.charge(Charge(study.hash, study.name, name, b"t", ledger.length + 1, b"c", gate.check(kind)))


def paid(gate: Gate, ledger: Ledger, policy: Policy, name: str) -> bool:
    try:
        pay(gate, ledger, policy, name)
    except BudgetExceeded:
        return False
    return True


def ceiling_between(low: float, high: float) -> Ceiling:
    assert low < high
    return Ceiling(epsilon=(low + high) / 2, delta=DELTA)


@pytest.mark.parametrize("name", ["count", "critic"])
def test_a_kind_is_let_through_up_to_its_cap_and_no_further(ledger: Ledger, policy: Policy, name: str) -> None:
    kind = policy.plan.kind(name)
    assert kind is not None
    gate = Gate(policy, AMPLE, ledger)
    for _ in range(kind.sum.rounds):
        pay(gate, ledger, policy, name)
    for again in (gate, Gate(policy, AMPLE, ledger)):  # a restart changes nothing
        with pytest.raises(BudgetExceeded, match=f"all {kind.sum.rounds} rounds of '{name}' .* are used"):
            again.check(kind)
    assert ledger.length == kind.sum.rounds


def test_the_charge_is_the_accounted_event_of_one_round(ledger: Ledger, policy: Policy) -> None:
    for kind in policy.plan.kinds:
        asked = Gate(policy, AMPLE, ledger).check(kind)
        assert asked == charge(kind, policy.study, 1)
        assert asked.noise_multiplier < kind.noise_multiplier
    assert ledger.length == 0


@pytest.mark.parametrize("steps", [0, 1, 3, 5])
@pytest.mark.parametrize("name", ["critic"])
def test_the_ceiling_refuses_exactly_the_step_whose_epsilon_passes_it(
    ledger: Ledger, policy: Policy, name: str, steps: int
) -> None:
    one = cost(policy, name)
    within, beyond = (
        epsilon([SampledGaussian(one.sample_rate, one.noise_multiplier, count)], DELTA) for count in (steps, steps + 1)
    )
    gate = Gate(policy, ceiling_between(within, beyond), ledger)
    for _ in range(steps):
        pay(gate, ledger, policy, name)
    for _ in range(2):
        with pytest.raises(BudgetExceeded, match="would pass the site's ceiling"):
            pay(gate, ledger, policy, name)
    assert ledger.length == steps


def test_a_ceiling_that_is_just_reached_is_not_passed(ledger: Ledger, policy: Policy) -> None:
    one = cost(policy, "critic")
    exact = epsilon([SampledGaussian(one.sample_rate, one.noise_multiplier, 2)], DELTA)
    gate = Gate(policy, Ceiling(epsilon=exact, delta=DELTA), ledger)
    pay(gate, ledger, policy, "critic")
    below = Gate(policy, Ceiling(epsilon=math.nextafter(exact, 0), delta=DELTA), ledger)
    assert not paid(below, ledger, policy, "critic")
    assert paid(gate, ledger, policy, "critic")
    assert not paid(gate, ledger, policy, "critic")


@pytest.mark.parametrize("seed", range(3))
def test_interleaved_kinds_are_each_decided_as_a_direct_accountant_would(
    ledger: Ledger, policy: Policy, seed: int
) -> None:
    rng = random.Random(seed)
    ceiling = Ceiling(epsilon=rng.uniform(1.5, 4.5), delta=DELTA)
    gate = Gate(policy, ceiling, ledger)
    spent: list[SampledGaussian] = []
    used = {"count": 0, "critic": 0}
    for _ in range(12):
        name = rng.choice(["count", "critic"])
        one, kind = cost(policy, name), policy.plan.kind(name)
        assert kind is not None
        expected = used[name] < kind.sum.rounds and epsilon([*spent, one], DELTA) <= ceiling.epsilon
        assert paid(gate, ledger, policy, name) == expected
        if expected:
            spent.append(one)
            used[name] += 1
    assert gate.standings()[0].spent <= ceiling.epsilon


@pytest.mark.parametrize("seed", range(3))
def test_two_studies_in_one_ledger_share_the_ceiling_but_not_the_caps(
    ledger: Ledger, policy: Policy, other_policy: Policy, seed: int
) -> None:
    rng = random.Random(seed)
    spent: list[SampledGaussian] = []
    whole = Gate(policy, AMPLE, ledger).standings()[0].after_study
    ceiling = Ceiling(epsilon=whole * 1.05, delta=DELTA)
    for _ in range(3):  # the site's agent is started for one study after the other
        now = rng.choice([policy, other_policy])
        gate = Gate(now, ceiling, ledger)
        for _ in range(4):
            name = rng.choice(["count", "critic"])
            one, kind = cost(now, name), now.plan.kind(name)
            assert kind is not None
            used = ledger.count(now.study.hash, name)
            expected = used < kind.sum.rounds and epsilon([*spent, one], DELTA) <= ceiling.epsilon
            assert paid(gate, ledger, now, name) == expected
            spent += [one] * expected
    assert epsilon(spent, DELTA) == pytest.approx(Gate(policy, ceiling, ledger).standings()[0].spent)


def test_a_study_that_fits_alone_is_cut_short_by_what_an_earlier_study_spent(
    ledger: Ledger, policy: Policy, other_policy: Policy
) -> None:
    whole = Gate(other_policy, AMPLE, ledger).standings()[0].after_study
    ceiling = Ceiling(epsilon=whole * 1.001, delta=DELTA)
    first = Gate(policy, ceiling, ledger)
    assert paid(first, ledger, policy, "critic")
    second = Gate(other_policy, ceiling, ledger)
    outcomes = [
        paid(second, ledger, other_policy, kind.sum.name)
        for kind in other_policy.plan.kinds
        for _ in range(kind.sum.rounds)
    ]
    assert outcomes[0]
    assert not outcomes[-1]


def test_what_is_spent_now_and_after_the_study_is_what_the_accountant_says(ledger: Ledger, policy: Policy) -> None:
    gate = Gate(policy, AMPLE, ledger)
    rounds = [charge(kind, policy.study, kind.sum.rounds) for kind in policy.plan.kinds]
    assert gate.standings()[0].spent == 0.0
    assert gate.standings()[0].after_study == pytest.approx(epsilon(rounds, DELTA))
    for name in ("count", "critic", "critic"):
        pay(gate, ledger, policy, name)
    one, two = cost(policy, "count"), cost(policy, "critic")
    assert gate.standings()[0].spent == pytest.approx(epsilon([one, two, two], DELTA))
    assert gate.standings()[0].after_study == pytest.approx(epsilon(rounds, DELTA))


@pytest.mark.parametrize(
    ("name", "rate_factor", "noise_factor", "steps", "is_covered"),
    [
        ("count", 1.0, 1.0, 1, True),
        ("count", 1.0, 1.5, 1, True),
        ("count", 1.0, 1 - 1e-9, 1, True),
        ("count", 1.0, 0.99, 1, False),
        ("critic", 1.01, 1.0, 1, False),
        ("critic", 1.0, 1.0, 2, False),
        ("gone", 1.0, 1.0, 1, False),
    ],
)
def test_a_study_that_was_spent_at_a_higher_price_than_its_plan_is_not_gone_on_with(
    ledger: Ledger, policy: Policy, name: str, rate_factor: float, noise_factor: float, steps: int, is_covered: bool
) -> None:
    own = cost(policy, "count" if name == "gone" else name)
    spent = SampledGaussian(own.sample_rate * rate_factor, own.noise_multiplier * noise_factor, steps)
    ledger.charge(Charge(policy.study.hash, policy.study.name, name, b"t", 1, b"c", spent))
    if is_covered:
        Gate(policy, AMPLE, ledger)
    else:
        with pytest.raises(ConfigError, match=f"rounds of '{name}' under another plan"):
            Gate(policy, AMPLE, ledger)


@pytest.mark.parametrize("name", ["count", "critic"])
def test_a_study_that_has_spent_more_rounds_than_its_plan_has_is_not_gone_on_with(
    ledger: Ledger, policy: Policy, name: str
) -> None:
    """Each may be as cheap as the plan's: with the other sums' rounds, all together cost more than the promise."""
    kind, study = policy.plan.kind(name), policy.study
    assert kind is not None
    for counter in range(kind.sum.rounds):
        ledger.charge(Charge(study.hash, study.name, name, b"t", counter, b"c", cost(policy, name)))
    Gate(policy, AMPLE, ledger)
    ledger.charge(Charge(study.hash, study.name, name, b"t", kind.sum.rounds, b"c", cost(policy, name)))
    with pytest.raises(ConfigError, match=f"rounds of '{name}' under another plan"):
        Gate(policy, AMPLE, ledger)


def test_what_another_study_has_spent_is_no_concern_of_this_ones_plan(ledger: Ledger, policy: Policy) -> None:
    ledger.charge(Charge(b"x" * 32, "other", "gone", b"t", 1, b"c", SampledGaussian(1.0, 0.5, 1)))
    Gate(policy, AMPLE, ledger)
