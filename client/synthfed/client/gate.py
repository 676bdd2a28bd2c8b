"""The site's veto: whether its records can still pay for one more step.

Never lets a step through that the study's caps or the site's own ceiling do not cover.
"""

from typing import Final

from synthfed.protocols.errors import BudgetExceeded, ConfigError
from synthfed.protocols.privacy.accountant import SampledGaussian, epsilon
from synthfed.protocols.privacy.plan import charge
from synthfed.protocols.secagg.policy import Policy
from synthfed.protocols.sums import Kind

from .config import Ceiling
from .vault import Ledger

ROUNDING: Final = 1e-6
"""Part of a noise multiplier by which another version of the accountant may plan the same one."""


class Gate:
    """Decides over steps of one study, against all that the ledger holds."""

    def __init__(self, policy: Policy, ceiling: Ceiling, ledger: Ledger) -> None:
        """Remember the pinned policy, the site's ceiling and the ledger.

        Raises:
            ConfigError: the study's delta is above the ceiling's, which could then not be accounted for, or
                the study was spent in part under another plan.
        """
        if policy.study.privacy.delta > ceiling.delta:
            raise ConfigError(
                f"the study's privacy.delta = {policy.study.privacy.delta} is above this site's ceiling.delta = "
                f"{ceiling.delta}; agree on a smaller one",
                where="site.toml",
            )
        _check_prices(policy, ledger)
        self._policy = policy
        self._ceiling = ceiling
        self._ledger = ledger
        self._expected = ("", -1)  # the kind and ledger length for which the next number holds
        self._affordable_rounds = 0

    def check(self, kind: Kind) -> SampledGaussian:
        """Return the charge of one more round of a kind.

        Raises:
            BudgetExceeded: the kind's cap or the site's ceiling is reached.
        """
        study = self._policy.study
        name, spent = kind.sum.name, self._ledger.count(study.hash, kind.sum.name)
        if spent >= kind.sum.rounds:
            raise BudgetExceeded(f"all {kind.sum.rounds} rounds of {name!r} that the study allows are used")
        cost = charge(kind, study, 1)
        length = self._ledger.length
        if self._expected != (name, length):
            self._affordable_rounds = self._affordable(cost, kind.sum.rounds - spent)
        if self._affordable_rounds < 1:
            raise BudgetExceeded(
                f"one more round of {name!r} would pass the site's ceiling, epsilon = {self._ceiling.epsilon}"
            )
        # Holds only if the very next entry is this round's; any other makes it be computed anew.
        self._expected = (name, length + 1)
        self._affordable_rounds -= 1
        return cost

    def spent(self) -> float:
        """Return epsilon of everything in the ledger, at the site's own delta."""
        return epsilon(self._ledger.events(), self._ceiling.delta)

    def spent_after_study(self) -> float:
        """Return epsilon of the ledger after every round that the study still allows."""
        study = self._policy.study
        events = self._ledger.events()
        for kind in self._policy.plan.kinds:
            left = kind.sum.rounds - self._ledger.count(study.hash, kind.sum.name)
            events.append(charge(kind, study, max(0, left)))
        return epsilon(events, self._ceiling.delta)

    def _affordable(self, cost: SampledGaussian, wanted: int) -> int:
        """Return how many more such rounds, one after another, the ceiling covers; at most ``wanted``."""
        events = self._ledger.events()

        def fits(count: int) -> bool:
            more = SampledGaussian(cost.sample_rate, cost.noise_multiplier, count * cost.count)
            return epsilon([*events, more], self._ceiling.delta) <= self._ceiling.epsilon

        if fits(wanted):
            return wanted
        low, high = 0, wanted
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low


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
