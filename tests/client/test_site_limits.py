"""The site's limits per study, per year and in total: no order of studies and no clock gets past one of them."""

import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.client.federation import Identities

from synthfed.client.config import Ceiling
from synthfed.client.entries import DAY_S, YEAR_S, Book, Charge, charged, cleared
from synthfed.client.gate import LONGEST_LEAP_S, Closed, Gate, OverLimit
from synthfed.client.policy import SitePolicy
from synthfed.client.vault import Ledger
from synthfed.protocols.errors import BudgetExceeded, ConfigError, RemoteProtocolError
from synthfed.protocols.privacy.accountant import SampledGaussian, epsilon
from synthfed.protocols.privacy.plan import charge
from synthfed.protocols.secagg.policy import Policy

DELTA = 1e-5
START = 1_795_000_000 // DAY_S * DAY_S
AMPLE = Ceiling(epsilon=100.0, delta=DELTA)
RULES = {"total": "ceiling.epsilon", "year": "policy.epsilon_per_year", "study": "policy.epsilon_per_study"}


@dataclass
class Calendar:
    """A clock that a test sets."""

    now_s: float = START

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def calendar() -> Calendar:
    return Calendar()


@pytest.fixture
def ledger(tmp_path: Path, identities: Identities, calendar: Calendar) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "ledger.db", identities["a"], create=True, now=calendar)) as opened:
        yield opened


def pay(gate: Gate, ledger: Ledger, policy: Policy, name: str = "critic") -> None:
    """Ask the gate and, where it lets the step through, charge it."""
    kind, study = policy.plan.kind(name), policy.study
    assert kind is not None
    ledger.charge(Charge(study.hash, study.name, name, b"t", ledger.length + 1, b"c", gate.check(kind)))


def refusal(gate: Gate, ledger: Ledger, policy: Policy, name: str = "critic") -> str:
    """Return the rule that refuses a step; empty where it was let through and charged."""
    try:
        pay(gate, ledger, policy, name)
    except OverLimit as error:
        assert policy.study.name in str(error)
        assert error.rule in str(error)
        return error.rule
    return ""


def cost(policy: Policy, name: str = "critic") -> SampledGaussian:
    kind = policy.plan.kind(name)
    assert kind is not None
    return charge(kind, policy.study, 1)


@lru_cache(maxsize=4096)
def composed(events: tuple[tuple[float, float, int], ...]) -> float:
    return epsilon([SampledGaussian(*each) for each in events], DELTA)


def together(events: list[SampledGaussian]) -> float:
    return composed(tuple(sorted((each.sample_rate, each.noise_multiplier, each.count) for each in events)))


@dataclass
class Oracle:
    """What a site would say that writes every charge down with its day and adds all of them up each time."""

    limits: dict[str, float]
    paid: list[tuple[int, bytes, str, SampledGaussian]] = field(default_factory=list)
    latest_s: int = 0

    def broken(self, policy: Policy, name: str, now_s: int) -> set[str]:
        kind = policy.plan.kind(name)
        assert kind is not None
        one, study = cost(policy, name), policy.study.hash
        if sum(each[1:3] == (study, name) for each in self.paid) >= kind.sum.rounds:
            return {"rounds"}
        counted = {
            "total": self.paid,
            "study": [each for each in self.paid if each[1] == study],
            "year": [each for each in self.paid if each[0] // DAY_S >= (now_s - YEAR_S) // DAY_S],
        }
        after = {rule: together([*(each[3] for each in counted[rule]), one]) for rule in self.limits}
        return {RULES[rule] for rule, most in self.limits.items() if after[rule] > most}

    def pay(self, policy: Policy, name: str, now_s: int) -> None:
        self.latest_s = max(self.latest_s, now_s)
        self.paid.append((self.latest_s, policy.study.hash, name, cost(policy, name)))


STEPS = st.lists(
    st.tuples(
        st.sampled_from([0, 1]),
        st.sampled_from(["count", "critic"]),
        st.sampled_from([0, 1, 30, 200, 364, 366, -1, -400]),
        st.booleans(),
    ),
    min_size=3,
    max_size=10,
)
MOST = st.floats(0.8, 4.0)


@given(steps=STEPS, total=st.floats(1.5, 6.0), year=MOST, study=MOST)
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_order_of_studies_and_no_clock_passes_a_limit_and_none_is_refused_early(
    policy: Policy,
    other_policy: Policy,
    identities: Identities,
    steps: list[tuple[int, str, int, bool]],
    total: float,
    year: float,
    study: float,
) -> None:
    """Each step is one more round of one of two studies, after some days, perhaps by a clock that was set back."""
    calendar, oracle = Calendar(), Oracle({"total": total, "year": year, "study": study})
    ceiling, rules = Ceiling(epsilon=total, delta=DELTA), SitePolicy(epsilon_per_year=year, epsilon_per_study=study)
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Ledger(Path(folder) / "ledger.db", identities["a"], create=True, now=calendar)) as ledger,
    ):
        gate, served = None, None
        for which, name, days, is_anew in steps:
            now, calendar.now_s = (policy, other_policy)[which], calendar.now_s + days * DAY_S
            if gate is None or is_anew or now is not served:
                gate, served = started(now, ceiling, ledger, rules, oracle), now
            expected = oracle.broken(now, name, int(calendar.now_s))
            found = refusal(gate, ledger, now, name)
            assert found in expected if expected else not found
            if not found:
                oracle.pay(now, name, int(calendar.now_s))
        assert together([each[3] for each in oracle.paid]) <= total
        for each in (policy, other_policy):
            assert together([paid[3] for paid in oracle.paid if paid[1] == each.study.hash]) <= study
        for start in {paid[0] for paid in oracle.paid}:
            span = [paid[3] for paid in oracle.paid if start <= paid[0] < start + YEAR_S]
            assert together(span) <= year


def started(policy: Policy, ceiling: Ceiling, ledger: Ledger, rules: SitePolicy, oracle: Oracle) -> Gate:
    """Return a gate; where the clock has leapt, a person looks at it and clears the ledger."""
    try:
        return Gate(policy, ceiling, ledger, rules)
    except ConfigError as error:
        assert "epsilon_per_year: this machine's clock is" in str(error)
        ledger.clear()
        oracle.latest_s = max(oracle.latest_s, ledger.now_unix_s())
        return Gate(policy, ceiling, ledger, rules)


READINGS = st.lists(st.tuples(st.integers(0, 5 * YEAR_S), st.booleans()), min_size=1, max_size=12)


@given(READINGS, st.integers(0, 6 * YEAR_S))
def test_a_charge_counts_until_the_clock_shows_a_year_more_than_at_any_entry_up_to_it(
    readings: list[tuple[int, bool]], now_s: int
) -> None:
    book, latest_s, expected = Book(), 0, 0
    for at_s, is_charge in readings:
        event = SampledGaussian(0.5, 2.0, 1)
        note = charged(Charge(b"s" * 32, "first", "critic", b"t", 1, b"c", event)) if is_charge else cleared()
        book.add(note, b"tag", at_s)
        latest_s = max(latest_s, at_s)
        expected += is_charge and latest_s // DAY_S >= (now_s - YEAR_S) // DAY_S
        if is_charge and now_s <= at_s + YEAR_S:
            assert latest_s // DAY_S >= (now_s - YEAR_S) // DAY_S
    assert book.recent_costs(now_s).total() == expected


@pytest.mark.parametrize("rule", ["year", "study"])
def test_a_limit_that_is_just_reached_is_not_passed(ledger: Ledger, policy: Policy, rule: str) -> None:
    two = together([cost(policy)] * 2)
    gate = Gate(policy, AMPLE, ledger, SitePolicy.model_validate({f"epsilon_per_{rule}": two}))
    assert [refusal(gate, ledger, policy) for _ in range(3)] == ["", "", RULES[rule]]


def test_a_year_later_what_was_spent_may_be_spent_again_but_not_past_the_ceiling(
    ledger: Ledger, policy: Policy, calendar: Calendar
) -> None:
    two, three = together([cost(policy)] * 2), together([cost(policy)] * 3)
    rules = SitePolicy(epsilon_per_year=two)
    gate = Gate(policy, Ceiling(epsilon=three, delta=DELTA), ledger, rules)
    assert [refusal(gate, ledger, policy) for _ in range(3)] == ["", "", RULES["year"]]
    calendar.now_s += YEAR_S
    assert refusal(gate, ledger, policy) == RULES["year"]  # of that day, the year has not quite passed
    calendar.now_s += DAY_S
    assert [refusal(gate, ledger, policy) for _ in range(2)] == ["", RULES["total"]]


def test_another_study_does_not_use_up_the_limit_of_one_but_that_of_the_year(
    ledger: Ledger, policy: Policy, other_policy: Policy
) -> None:
    one = together([cost(policy)])
    rules = SitePolicy(epsilon_per_study=max(one, together([cost(other_policy)])))
    for each in (policy, other_policy):
        assert refusal(Gate(each, AMPLE, ledger, rules), ledger, each) == ""
    yearly = SitePolicy(epsilon_per_year=together([cost(policy), cost(other_policy)]))
    assert refusal(Gate(other_policy, AMPLE, ledger, yearly), ledger, other_policy) == RULES["year"]


def test_a_refusal_of_one_kind_decides_nothing_about_another(ledger: Ledger, policy: Policy) -> None:
    """The affordable number of one kind, kept for the next step, must not be taken for the other's."""
    cheap, dear = sorted(("count", "critic"), key=lambda name: together([cost(policy, name)]))
    first = together([cost(policy, cheap)] * 2)
    assert together([cost(policy, cheap), cost(policy, dear)]) > first
    gate = Gate(policy, Ceiling(epsilon=first, delta=DELTA), ledger)
    assert refusal(gate, ledger, policy, cheap) == ""
    assert refusal(gate, ledger, policy, dear) == RULES["total"]
    assert refusal(gate, ledger, policy, cheap) == ""


def test_a_clock_that_leaps_ahead_frees_nothing_until_a_person_has_looked(
    ledger: Ledger, policy: Policy, calendar: Calendar
) -> None:
    rules = SitePolicy(epsilon_per_year=together([cost(policy)]))
    assert refusal(Gate(policy, AMPLE, ledger, rules), ledger, policy) == ""
    calendar.now_s = START + 4 * YEAR_S
    with pytest.raises(
        ConfigError, match=r"clock is 1460 days ahead of the ledger's last round or look.*`synthfed client clear`"
    ):
        Gate(policy, AMPLE, ledger, rules)
    Gate(policy, AMPLE, ledger)  # no rule needs the year
    calendar.now_s = START + DAY_S
    assert refusal(Gate(policy, AMPLE, ledger, rules), ledger, policy) == RULES["year"]
    calendar.now_s = START + 4 * YEAR_S
    ledger.clear()
    assert refusal(Gate(policy, AMPLE, ledger, rules), ledger, policy) == ""


@pytest.mark.parametrize("act", ["release", "remember_block"])
def test_to_end_a_study_under_a_clock_that_leapt_is_not_to_have_looked_at_it(
    ledger: Ledger, policy: Policy, calendar: Calendar, act: str
) -> None:
    rules = SitePolicy(epsilon_per_year=together([cost(policy)]))
    pay(Gate(policy, AMPLE, ledger, rules), ledger, policy)
    calendar.now_s = START + 4 * YEAR_S
    getattr(ledger, act)(b"o" * 32, calendar.now_s)
    with pytest.raises(ConfigError, match=r"clock is 1460 days ahead"):
        Gate(policy, AMPLE, ledger, rules)


def test_what_was_freed_by_a_wrong_clock_counts_again_when_it_is_right(
    ledger: Ledger, policy: Policy, calendar: Calendar
) -> None:
    rules = SitePolicy(epsilon_per_year=together([cost(policy)] * 2))
    pay(Gate(policy, AMPLE, ledger, rules), ledger, policy)
    calendar.now_s = START + 4 * YEAR_S
    ledger.clear()  # by a person who did not look
    pay(Gate(policy, AMPLE, ledger, rules), ledger, policy)
    calendar.now_s = START + DAY_S
    assert refusal(Gate(policy, AMPLE, ledger, rules), ledger, policy) == RULES["year"]


def test_a_long_quiet_that_makes_no_charge_old_needs_nobody(ledger: Ledger, policy: Policy, calendar: Calendar) -> None:
    rules = SitePolicy(epsilon_per_year=50.0)
    pay(Gate(policy, AMPLE, ledger, rules), ledger, policy)
    for later_s in (LONGEST_LEAP_S + DAY_S, YEAR_S - DAY_S):
        calendar.now_s = START + later_s
        Gate(policy, AMPLE, ledger, rules)
    calendar.now_s = START + YEAR_S + DAY_S
    with pytest.raises(ConfigError, match="366 days ahead"):
        Gate(policy, AMPLE, ledger, rules)


def test_outside_its_hours_a_site_lets_no_step_through_and_the_refusal_is_like_any_other(
    ledger: Ledger, policy: Policy, calendar: Calendar
) -> None:
    gate = Gate(policy, AMPLE, ledger, SitePolicy(open=("mon-fri 08:00-18:00",)))
    calendar.now_s = START + next(day for day in range(7) if (START // DAY_S + day + 3) % 7 == 0) * DAY_S  # a Monday
    for hour, is_open in ((7.99, False), (8.0, True), (17.99, True), (18.0, False), (8.0 + 5 * 24, False)):
        calendar.now_s = calendar.now_s // DAY_S * DAY_S + hour * 3600
        if is_open:
            assert refusal(gate, ledger, policy) == ""
            continue
        with pytest.raises(
            Closed, match=r"study 'first': policy\.open: asked outside this site's opening hours"
        ) as caught:
            pay(gate, ledger, policy)
        assert isinstance(caught.value, RemoteProtocolError)
        assert not isinstance(caught.value, BudgetExceeded)


def test_the_standings_name_every_limit_with_what_is_spent_and_will_be(ledger: Ledger, policy: Policy) -> None:
    rules = SitePolicy(epsilon_per_study=4.0, epsilon_per_year=0.1)
    gate = Gate(policy, AMPLE, ledger, rules)
    with pytest.raises(OverLimit):
        pay(gate, ledger, policy)
    total, year, study = gate.standings()
    assert [each.limit.rule for each in (total, year, study)] == [RULES["total"], RULES["year"], RULES["study"]]
    assert (total.is_ok, year.is_ok) == (True, False)
    assert total.spent == year.spent == study.spent == 0
    assert total.after_study == year.after_study == pytest.approx(gate.standings()[0].after_study)
    assert "above the epsilon_per_year of 0.1; raise epsilon_per_year" in year.told
    assert total.told.endswith("after the study, ceiling 100")
