"""Reservations: kept at approval, counted against every other study, given back by whoever ends the study."""

import os
import re
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from tests.client.federation import AMPLE, Identities
from tests.client.homes import copied
from typer.testing import CliRunner

from synthfed.client.cli import app
from synthfed.client.config import Ceiling, Home
from synthfed.client.consent.desk import open_desk
from synthfed.client.consent.standing import Consent
from synthfed.client.entries import DAY_S, GENESIS, YEAR_S, Charge, Note, chain_key, events_of
from synthfed.client.gate import Gate, OverLimit
from synthfed.client.keys.identity import load_identity
from synthfed.client.ledger_file import insert
from synthfed.client.policy import SitePolicy
from synthfed.client.reservation import Costs, Reservation
from synthfed.client.site import open_agent
from synthfed.client.vault import Ledger
from synthfed.protocols.errors import BudgetExceeded, ConfigError, PrivacyError
from synthfed.protocols.privacy.accountant import SampledGaussian, epsilon
from synthfed.protocols.privacy.plan import make_plan
from synthfed.protocols.secagg.policy import Policy
from synthfed.protocols.study import Study
from synthfed.protocols.sums import Sum

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

DELTA = 1e-5
START = 1_795_000_000 // DAY_S * DAY_S
SUM = "count"


@pytest.fixture(scope="module")
def policies(study: Study, other_policy: Policy) -> tuple[Policy, Policy]:
    """Return two studies of one sum each, the second with more noise."""
    sums = (Sum(SUM, "statistic", 2, 2.0, 1.0, 4, 1.0),)
    first, second = (Policy(each, make_plan(each, sums), b"code") for each in (study, other_policy.study))
    return first, second


@pytest.fixture
def ledger(tmp_path: Path, identities: Identities) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "ledger.db", identities["a"], create=True)) as opened:
        yield opened


def whole(*policies: Policy) -> float:
    """Return epsilon of everything that these studies may spend."""
    costs = sum((Reservation.of(each).left({}) for each in policies), Counter())
    return epsilon(events_of(costs), DELTA)


def pay(gate: Gate, policy: Policy, session: bytes = b"t") -> int:
    kind = policy.plan.kind(SUM)
    assert kind is not None
    return gate.charge(kind, session, 1, b"c")


def refusal(gate: Gate, policy: Policy) -> str:
    """Return the rule by which a round is refused, nothing where it was charged."""
    try:
        pay(gate, policy)
    except OverLimit as error:
        return error.rule
    return ""


def test_what_is_reserved_for_one_study_is_not_had_by_another_and_costs_are_composed(
    ledger: Ledger, policies: tuple[Policy, Policy]
) -> None:
    first, second = policies
    both = whole(first, second)
    assert both < whole(first) + whole(second)
    ceiling = Ceiling(epsilon=both * 0.999, delta=DELTA)
    one, two = (Gate(each, ceiling, ledger) for each in policies)
    one.reserve()
    with pytest.raises(OverLimit, match=r"with what other studies have reserved\) to .*run `synthfed client release`"):
        two.reserve()
    assert [refusal(two, second) for _ in range(4)] == ["", "", "", "ceiling.epsilon"]
    assert [refusal(one, first) for _ in range(5)] == ["", "", "", "", "rounds"]
    assert epsilon(ledger.events(), DELTA) <= ceiling.epsilon


def test_two_studies_that_fit_together_both_get_all_that_they_reserved(
    ledger: Ledger, policies: tuple[Policy, Policy]
) -> None:
    both = whole(*policies)
    gates = [Gate(each, Ceiling(epsilon=both, delta=DELTA), ledger) for each in policies]
    for gate in gates:
        gate.reserve()
        gate.reserve()  # the same again is no entry
    assert ledger._position == 2
    for _ in range(4):
        assert [refusal(gate, each) for gate, each in zip(gates, policies, strict=True)] == ["", ""]
    assert epsilon(ledger.events(), DELTA) == pytest.approx(both)
    assert ledger.book.kept_for_others() == Costs()


@pytest.mark.parametrize("by_block", [True, False])
def test_a_block_or_a_release_gives_back_what_was_not_used_and_only_that(
    ledger: Ledger, policies: tuple[Policy, Policy], by_block: bool
) -> None:
    first, second = policies
    one = Gate(first, AMPLE, ledger)
    one.reserve()
    pay(one, first)
    spent = Counter(ledger.book.costs)
    assert ledger.book.kept_for(first.study.hash).total() == 3
    (ledger.remember_block if by_block else ledger.release)(first.study.hash, 7)
    assert ledger.book.reserved == {}
    assert ledger.book.costs == spent
    assert ledger.blocked_unix_s(first.study.hash) == 7
    used = epsilon(events_of(spent + Reservation.of(second).left({})), DELTA)
    Gate(second, Ceiling(epsilon=used, delta=DELTA), ledger).reserve()


def test_a_reservation_of_equal_cost_beside_a_running_study_ends_it_no_earlier(
    ledger: Ledger, study: Study, policies: tuple[Policy, Policy]
) -> None:
    first, _ = policies
    renamed = study.model_copy(update={"name": "again"})
    again = Policy(renamed, first.plan, b"code")
    gate, other = (Gate(each, AMPLE, ledger) for each in (first, again))
    gate.reserve()
    assert refusal(gate, first) == ""
    other.reserve()
    assert [refusal(gate, first) for _ in range(4)] == ["", "", "", "rounds"]


def test_reservations_count_against_the_year_and_a_studys_own_against_its_own_limit(
    ledger: Ledger, policies: tuple[Policy, Policy]
) -> None:
    first, second = policies
    Gate(first, AMPLE, ledger).reserve()
    yearly = SitePolicy(epsilon_per_year=whole(first, second) * 0.999)
    with pytest.raises(OverLimit, match=r"policy\.epsilon_per_year"):
        Gate(second, AMPLE, ledger, yearly).reserve()
    Gate(second, AMPLE, ledger, SitePolicy(epsilon_per_study=whole(second))).reserve()
    with pytest.raises(OverLimit, match=r"policy\.epsilon_per_study"):
        Gate(first, AMPLE, ledger, SitePolicy(epsilon_per_study=whole(first) * 0.999)).check_fit()


def test_a_reservation_reads_as_it_was_written(ledger: Ledger, policy: Policy, identities: Identities) -> None:
    reservation = Reservation.of(policy)
    assert Reservation.read(reservation.content) == reservation
    Gate(policy, AMPLE, ledger).reserve()
    with closing(Ledger(ledger._path, identities["a"])) as again:
        assert again.book == ledger.book
        assert again.book.reserved == {policy.study.hash: reservation}


def test_two_ledgers_of_one_file_know_each_others_entries_before_they_append(
    ledger: Ledger, policies: tuple[Policy, Policy], identities: Identities
) -> None:
    first, second = policies
    with closing(Ledger(ledger._path, identities["a"])) as other:
        one = Gate(first, AMPLE, ledger)
        two = Gate(second, Ceiling(epsilon=whole(second), delta=DELTA), other)
        number = pay(one, first)
        assert other.length == 0
        with pytest.raises(OverLimit):
            two.reserve()
        assert (other.length, other.unsettled(), ledger.unsettled()) == (1, (), (number,))
        ledger.settle(number, "sent")
        with pytest.raises(PrivacyError, match="another process has charged a step of this very session"):
            pay(Gate(second, AMPLE, other), second)
        assert pay(Gate(second, AMPLE, other), second, b"u") == 2
        ledger.refresh()
        assert (ledger.book, ledger.unsettled(), other.unsettled()) == (other.book, (), (2,))


def test_an_entry_that_another_process_forged_stops_the_agent_at_its_next_look(ledger: Ledger) -> None:
    with closing(sqlite3.connect(ledger._path)) as db:
        db.execute("INSERT INTO entries VALUES (1, 0, 'release', '{}', x'00')")
        db.commit()
    for act in (ledger.refresh, lambda: ledger.release(b"s" * 32, 1)):
        with pytest.raises(PrivacyError, match="entry 1 was changed, added or removed"):
            act()


def test_a_kind_that_another_process_of_a_newer_version_wrote_stops_the_agent(
    ledger: Ledger, identities: Identities
) -> None:
    note = Note("later", "{}")
    with closing(sqlite3.connect(ledger._path)) as db:
        insert(db, chain_key(identities["a"]), GENESIS, 1, START, note)
        db.commit()
    with pytest.raises(PrivacyError, match="entry 1 is of a kind that this version does not know; install a newer"):
        ledger.refresh()


WRITERS = 2
EACH = 30


def test_two_processes_share_a_ceiling_and_lose_no_charge(
    tmp_path: Path, policies: tuple[Policy, Policy], identities: Identities
) -> None:
    """Each of them charges as long as it may; the limit is reached in the midst of both."""
    path, most = tmp_path / "ledger.db", 40
    Ledger(path, identities["a"], create=True).close()
    children = []
    for number in range(WRITERS):
        child = os.fork()
        if not child:
            try:
                os._exit(spend(path, identities["a"], number, most))
            finally:
                os._exit(255)
        children.append(child)
    counts = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sum(counts) == most
    with closing(Ledger(path, identities["a"])) as ledger:
        assert ledger.length == most
        rounds = [ledger.count(bytes([number]) * 32, SUM) for number in range(WRITERS)]
        assert rounds == counts


def spend(path: Path, identity: Ed25519PrivateKey, number: int, most: int) -> int:
    """Charge up to a number of rounds while all studies together have fewer than the most; return how many."""
    event, count = SampledGaussian(1.0, 9.0, 1), 0
    with closing(Ledger(path, identity)) as ledger:

        def check() -> None:
            if ledger.length >= most:
                raise BudgetExceeded("reached")

        for counter in range(EACH):
            try:
                charge = Charge(bytes([number]) * 32, str(number), SUM, bytes([number]), counter, b"c", event)
                ledger.settle(ledger.charge(charge, check), "sent")
            except BudgetExceeded:
                break
            count += 1
    return count


def run(home: Home, *arguments: str) -> str:
    done = CliRunner().invoke(app, [*arguments, "--home", str(home.path)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return re.sub(r"\s+", " ", done.output)


def test_approval_reserves_release_gives_back_and_only_a_new_approval_serves_again(
    made_home: Home, tmp_path: Path
) -> None:
    home = copied(made_home, tmp_path)
    text = home.config.read_text(encoding="utf-8")
    home.config.write_text(text.replace("epsilon = 8.0", "epsilon = 6.0"), encoding="utf-8")
    other = tmp_path / "other.toml"
    study = (home.path / "study.toml").read_text(encoding="utf-8")
    other.write_text(study.replace('name = "first"', 'name = "second"', 1), encoding="utf-8")
    assert "reserved: what its plan may spend here" in run(home, "approve")
    shown = run(home, "review", str(other))
    assert "ceiling 0 spent so far, 5 with what is reserved" in shown
    assert "This study does NOT fit under the limit ceiling.epsilon: it cannot be approved." in shown
    with pytest.raises(BudgetExceeded, match=r"study 'second': ceiling\.epsilon: .* run `synthfed client release`"):
        run(home, "approve", str(other))
    assert re.search(r"operator study-refused uid=\d+ rules=ceiling\.epsilon study=second ", run(home, "log"))
    assert len(list(home.decisions.glob("*-approve-*"))) == 2  # both of them of the first study
    shown = run(home, "ledger")
    assert "first" in shown
    assert "in total epsilon 0 of 6, 5 with what is reserved, 0 charges" in shown
    with pytest.raises(ConfigError, match=r"STUDY: names 0 studies with a reservation; .* of one of these: first \("):
        run(home, "release", "third")
    with closing(Ledger(home.ledger, load_identity(home.identity))) as ledger:
        consent = Consent(open_desk(home, None).rule, ledger)
        assert consent.objection() == ""
        assert "marginals: 2 round(s) were not used" in run(home, "release", "first")
        ledger.refresh()
        assert "rejected, withdrawn or released on" in consent.objection()
    with pytest.raises(ConfigError, match="of one of these: nothing"):
        run(home, "release")
    assert "reserved: what" in run(home, "approve", str(other))
    with pytest.raises(BudgetExceeded, match="study 'first'"):
        run(home, "approve")
    run(home, "withdraw", str(other))
    assert "approved: the agent serves these terms" in run(home, "approve")
    exported = tmp_path / "entries.csv"
    run(home, "ledger", "--export", str(exported))
    kinds = [line.split(",")[2] for line in exported.read_text(encoding="utf-8").splitlines()[1:]]
    assert kinds == ["reserve", "release", "reserve", "block", "reserve"]


def test_a_study_that_does_not_fit_is_not_started_either(made_home: Home, tmp_path: Path) -> None:
    home = copied(made_home, tmp_path)
    text = home.config.read_text(encoding="utf-8")
    home.config.write_text(text.replace("epsilon = 8.0", "epsilon = 4.0"), encoding="utf-8")
    with (
        pytest.raises(BudgetExceeded, match=r"ceiling\.epsilon: the study would bring epsilon from 0 to 5"),
        open_agent(home),
    ):
        pass
    assert "rules=ceiling.epsilon" in run(home, "log")


@dataclass
class Calendar:
    """A clock that a test sets."""

    now_s: float = START

    def __call__(self) -> float:
        return self.now_s


class TwoStudies(RuleBasedStateMachine):
    """Two studies, two processes' ledgers over one file, people, crashes and a clock that jumps."""

    policies: tuple[Policy, Policy]
    identity: Ed25519PrivateKey
    ceiling: Ceiling
    yearly: SitePolicy
    composed: Callable[[int, int], float]

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path, self.calendar = Path(self.folder.name) / "ledger.db", Calendar()
        Ledger(self.path, self.identity, create=True, now=self.calendar).close()
        self.handles = [self.opened() for _ in range(2)]
        self.paid = [0, 0]
        self.held = [False, False]
        self.latest_s, self.by_day = START, list[tuple[int, int]]()

    def opened(self) -> Ledger:
        return Ledger(self.path, self.identity, now=self.calendar)

    def gate(self, handle: int, study: int) -> Gate:
        ledger = self.handles[handle]
        try:
            return Gate(self.policies[study], self.ceiling, ledger, self.yearly)
        except ConfigError:  # the clock has leapt, and a person looks
            ledger.clear()
            self.latest_s = max(self.latest_s, int(self.calendar.now_s))
            return Gate(self.policies[study], self.ceiling, ledger, self.yearly)

    @rule(handle=st.integers(0, 1), study=st.integers(0, 1))
    def reserve(self, handle: int, study: int) -> None:
        try:
            self.gate(handle, study).reserve()
        except OverLimit:
            assert not self.held[study]
        else:
            self.held[study] = True

    @rule(handle=st.integers(0, 1), study=st.integers(0, 1), is_settled=st.booleans())
    def step(self, handle: int, study: int, is_settled: bool) -> None:
        gate = self.gate(handle, study)
        try:
            number = pay(gate, self.policies[study], bytes([handle]))
        except OverLimit as error:
            if self.held[study]:  # what was reserved is had, unless a clock that was set back has made the year fuller
                assert error.rule == "policy.epsilon_per_year" or self.paid[study] == 4
            return
        self.paid[study] += 1
        self.latest_s = max(self.latest_s, int(self.calendar.now_s))
        self.by_day.append((self.latest_s // DAY_S, study))
        assert number == sum(self.paid)
        if is_settled:
            self.handles[handle].settle(number, "sent")

    @rule(handle=st.integers(0, 1), study=st.integers(0, 1))
    def release(self, handle: int, study: int) -> None:
        self.handles[handle].release(self.policies[study].study.hash, 1)
        self.latest_s = max(self.latest_s, int(self.calendar.now_s))
        self.held[study] = False

    @rule(handle=st.integers(0, 1))
    def crash(self, handle: int) -> None:
        self.handles[handle].close()
        self.handles[handle] = self.opened()

    @rule(days=st.sampled_from([1, 20, 366, -30, -400]))
    def jump(self, days: int) -> None:
        self.calendar.now_s = max(0, self.calendar.now_s + days * DAY_S)

    @invariant()
    def nothing_is_lost_and_no_limit_is_passed(self) -> None:
        with closing(self.opened()) as fresh:
            book = fresh.book
        each = [book.rounds[policy.study.hash, SUM] for policy in self.policies]
        assert each == self.paid
        assert [policy.study.hash in book.reserved for policy in self.policies] == self.held
        assert self.composed(*each) <= self.ceiling.epsilon
        for start, _ in self.by_day:
            within = [study for day, study in self.by_day if start <= day < start + YEAR_S // DAY_S]
            assert self.composed(within.count(0), within.count(1)) <= (self.yearly.epsilon_per_year or 0)

    def teardown(self) -> None:
        for handle in self.handles:
            handle.close()
        self.folder.cleanup()


def test_no_interleaving_of_studies_people_crashes_and_clocks_passes_a_limit_or_loses_a_charge(
    policies: tuple[Policy, Policy], identities: Identities
) -> None:
    both = whole(*policies)

    @lru_cache(maxsize=64)
    def epsilon_of(first: int, second: int) -> float:
        costs = Costs()
        for policy, rounds in zip(policies, (first, second), strict=True):
            (share,) = Reservation.of(policy).shares
            costs[share.event.sample_rate, share.event.noise_multiplier] += rounds
        return epsilon(events_of(+costs), DELTA)

    class Machine(TwoStudies):
        composed = staticmethod(epsilon_of)
        ceiling = Ceiling(epsilon=both * 0.95, delta=DELTA)
        yearly = SitePolicy(epsilon_per_year=both * 0.9)
        identity = identities["a"]

    Machine.policies = policies
    run_state_machine_as_test(Machine, settings=settings(max_examples=8, stateful_step_count=16, deadline=None))
