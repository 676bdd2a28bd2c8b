"""The site's veto: whether its records can still pay for one more step, and whether the site is open.

Never lets a step through that the study's caps or one of the site's own limits do not cover.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Final

from synthfed.protocols.errors import BudgetExceeded, ConfigError, RemoteProtocolError
from synthfed.protocols.privacy.accountant import SampledGaussian, epsilon
from synthfed.protocols.privacy.plan import charge
from synthfed.protocols.secagg.policy import Policy
from synthfed.protocols.sums import Kind

from .config import Ceiling
from .entries import DAY_S, Charge, events_of
from .limits import Limit, Standing, limits_of
from .policy import SitePolicy
from .reservation import Costs, Reservation
from .vault import Ledger

ROUNDING: Final = 1e-6
"""Part of a noise multiplier by which another version of the accountant may plan the same one."""

LONGEST_LEAP_S: Final = 31 * DAY_S
"""How far the clock may be ahead of the ledger's last entry and, by itself, make charges older than a year."""


class OverLimit(BudgetExceeded):
    """One more round would pass a limit: a cap of the study, or a rule of the site."""

    def __init__(self, study: str, rule: str, kind: str, what: str) -> None:
        """Name study, rule and sum."""
        super().__init__(f"study {study!r}: {rule}: {what}")
        self.rule, self.kind = rule, kind


class Closed(RemoteProtocolError):
    """The coordinator asks outside this site's opening hours."""

    rule: Final = "policy.open"

    def __init__(self, study: str) -> None:
        """Name the study."""
        super().__init__(f"study {study!r}: {self.rule}: asked outside this site's opening hours", peer="coordinator")


@dataclass(frozen=True, slots=True)
class _Known:
    """How many rounds of a kind each limit covers from some costs on, so that the accountant is asked once for many.

    What another study spends of its own reservation changes nothing of it: that counted before.
    """

    kind: str
    day: int
    taken: list[Costs]
    rounds: list[int]

    def reaches(self, kind: str, day: int, taken: list[Costs], cost: SampledGaussian) -> bool:
        """Return whether costs are the known ones with nothing but some rounds of the kind added, on the same day."""
        if (kind, day) != (self.kind, self.day):
            return False
        pairs = zip(self.taken, taken, self._added(taken, cost), strict=True)
        return all(added >= 0 and now == before + _times(cost, added) for before, now, added in pairs)

    def covers_one(self, kind: str, day: int, taken: list[Costs], cost: SampledGaussian) -> bool:
        """Return whether every limit is known to cover one more round.

        That one does not may be no more than that rounds of equal cost were reserved for another study meanwhile: the
        accountant was asked for this study's rounds alone.
        """
        return self.reaches(kind, day, taken, cost) and min(self.left(taken, cost)) >= 1

    def left(self, taken: list[Costs], cost: SampledGaussian) -> list[int]:
        """Return how many further rounds each limit covers, from costs that it reaches."""
        return [rounds - added for rounds, added in zip(self.rounds, self._added(taken, cost), strict=True)]

    def _added(self, taken: list[Costs], cost: SampledGaussian) -> list[int]:
        key = cost.sample_rate, cost.noise_multiplier
        return [(now[key] - before[key]) // cost.count for before, now in zip(self.taken, taken, strict=True)]


def _times(cost: SampledGaussian, rounds: int) -> Costs:
    return +Counter({(cost.sample_rate, cost.noise_multiplier): rounds * cost.count})


class Gate:
    """Decides over steps of one study, against all that the ledger holds."""

    def __init__(self, policy: Policy, ceiling: Ceiling, ledger: Ledger, rules: SitePolicy | None = None) -> None:
        """Remember the pinned policy, the site's ceiling and rules, and the ledger.

        Raises:
            ConfigError: the study's delta is above the ceiling's, which could then not be accounted for; the study
                was spent in part under another plan; or the clock has leapt, so that no year can be told.
        """
        if policy.study.privacy.delta > ceiling.delta:
            raise ConfigError(
                f"the study's privacy.delta = {policy.study.privacy.delta} is above this site's ceiling.delta = "
                f"{ceiling.delta}; agree on a smaller one",
                where="site.toml",
            )
        _check_prices(policy, ledger)
        rules = rules or SitePolicy()
        self._policy = policy
        self._delta = ceiling.delta
        self._ledger = ledger
        self._hours = rules.hours
        self._limits = limits_of(policy, ceiling, ledger, rules)
        if rules.epsilon_per_year is not None:
            _check_clock(ledger)
        self._known: _Known | None = None

    def check_hours(self) -> None:
        """Raise Closed outside the site's opening hours."""
        if self._hours is not None and not self._hours.is_open(self._ledger.now_unix_s()):
            raise Closed(self._policy.study.name)

    def check(self, kind: Kind) -> SampledGaussian:
        """Return the charge of one more round of a kind.

        Raises:
            Closed: the site is not open.
            OverLimit: the kind's cap or one of the site's limits is reached.
        """
        self.check_hours()
        study = self._policy.study
        name, spent = kind.sum.name, self._ledger.count(study.hash, kind.sum.name)
        if spent >= kind.sum.rounds:
            what = f"all {kind.sum.rounds} rounds of {name!r} that the study allows are used"
            raise OverLimit(study.name, "rounds", name, what)
        cost, day = self.cost(kind), self._ledger.now_unix_s() // DAY_S
        taken = [limit.taken() for limit in self._limits]
        if self._known is None or not self._known.covers_one(name, day, taken, cost):
            left = kind.sum.rounds - spent
            limits = zip(self._limits, taken, strict=True)
            self._known = _Known(name, day, taken, [self._rounds(limit, each, cost, left) for limit, each in limits])
        for limit, rounds in zip(self._limits, self._known.left(taken, cost), strict=True):
            if rounds < 1:
                what = f"one more round of {name!r} would pass {limit.name}, epsilon = {limit.epsilon}"
                raise OverLimit(study.name, limit.rule, name, what)
        return cost

    def cost(self, kind: Kind) -> SampledGaussian:
        """Return what one round of a kind costs."""
        return charge(kind, self._policy.study, 1)

    def charge(self, kind: Kind, transcript: bytes, counter: int, context: bytes) -> int:
        """Let one more round through and charge it, both on one state of the ledger; return the charge's number.

        Raises:
            Closed, OverLimit: as `check`; nothing was charged.
            PrivacyError: the ledger failed.
        """
        study = self._policy.study
        paid = Charge(study.hash, study.name, kind.sum.name, transcript, counter, context, self.cost(kind))
        return self._ledger.charge(paid, lambda: self.check(kind))

    def reserve(self) -> None:
        """Keep for this study what its plan may still spend here, as long as it is approved and not released.

        Raises:
            OverLimit: it does not fit under one of the site's limits beside what was charged and what is kept for
                other studies.
            PrivacyError: the ledger failed.
        """
        self._ledger.reserve(Reservation.of(self._policy), self.check_fit)

    def check_fit(self) -> None:
        """Raise OverLimit where the whole study does not fit under one of the site's limits."""
        for at in self.standings():
            if not at.is_ok:
                raise OverLimit(self._policy.study.name, at.limit.rule, "", at.told)

    def standings(self) -> list[Standing]:
        """Return how near the ledger is to each limit, the ceiling in total first."""
        left, found = self._left(), []
        for limit in self._limits:
            spent, taken = limit.spent(), limit.taken()
            of_all = [self._epsilon(costs) for costs in (spent, taken, taken + left)]
            found.append(Standing(limit, *of_all))
        return found

    def _left(self) -> Costs:
        """Return what every round costs that the study still allows."""
        return Reservation.of(self._policy).left(self._ledger.book.rounds)

    def _epsilon(self, costs: Costs) -> float:
        return epsilon(events_of(costs), self._delta)

    def _rounds(self, limit: Limit, taken: Costs, cost: SampledGaussian, wanted: int) -> int:
        """Return how many more such rounds, one after another, a limit covers; at most ``wanted``."""

        def fits(count: int) -> bool:
            return self._epsilon(taken + _times(cost, count)) <= limit.epsilon

        if fits(wanted):
            return wanted
        low, high = 0, wanted
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low


def _check_clock(ledger: Ledger) -> None:
    """Refuse a clock that is far ahead of the ledger where that alone frees what was spent: a person must look."""
    leap_s = ledger.book.leap_s(ledger.now_unix_s())
    if leap_s > LONGEST_LEAP_S:
        raise ConfigError(
            f"epsilon_per_year: this machine's clock is {leap_s // DAY_S} days ahead of the ledger's last round or "
            "look, by which charges would grow older than a year; look at the clock, and if it is right, run "
            "`synthfed client clear`",
            where="site.toml",
        )


def _check_prices(policy: Policy, ledger: Ledger) -> None:
    """Refuse a study whose earlier rounds cost more than its plan allows for: its promise would not hold.

    Another version of a model can ask the same terms for other sums, and be planned with other noise. Rounds
    that cost no more than the plan's own, and are no more than it has, are covered by it.
    """
    planned, study = {kind.sum.name: kind for kind in policy.plan.kinds}, policy.study
    for name, sample_rate, noise_multiplier, steps in sorted(ledger.prices(study.hash)):
        kind = planned.get(name)
        if kind is None or not _covers(kind, policy, ledger, SampledGaussian(sample_rate, noise_multiplier, steps)):
            raise ConfigError(
                f"this study has spent rounds of {name!r} under another plan, that of another version of its model; "
                "give the study another name, so that it is planned and counted anew",
                where="study.toml",
            )


def _covers(kind: Kind, policy: Policy, ledger: Ledger, spent: SampledGaussian) -> bool:
    """Return whether a plan's kind pays for all rounds of it that were charged, one of which cost this."""
    own = charge(kind, policy.study, 1)
    is_cheap = spent.sample_rate <= own.sample_rate and spent.count <= own.count
    is_noised = spent.noise_multiplier >= own.noise_multiplier * (1 - ROUNDING)
    return is_cheap and is_noised and ledger.count(policy.study.hash, kind.sum.name) <= kind.sum.rounds
