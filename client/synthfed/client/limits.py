"""The limits that a site sets to what its records may spend, and how near a study comes to each.

Never adds epsilons up: every limit counts costs, and the accountant composes them.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from synthfed.protocols.secagg.policy import Policy

from .config import Ceiling
from .policy import SitePolicy
from .reservation import Costs
from .vault import Ledger


@dataclass(frozen=True, slots=True)
class Limit:
    """What charges may come to.

    Attributes:
        rule: its field in ``site.toml``.
        name: in a few words.
        epsilon: the most, at the ceiling's delta.
        spent: the charges that count.
        kept: what of other studies counts, as it is reserved for them.
    """

    rule: str
    name: str
    epsilon: float
    spent: Callable[[], Costs]
    kept: Callable[[], Costs] = Counter

    def taken(self) -> Costs:
        """Return what is charged, or reserved for other studies: no more of the limit is to be had."""
        return self.spent() + self.kept()


@dataclass(frozen=True, slots=True)
class Standing:
    """A limit, and how near to it the ledger is.

    Attributes:
        limit: the limit.
        spent: epsilon of the charges that count.
        taken: that with what is reserved for other studies.
        after_study: that after every round that this study still allows.
    """

    limit: Limit
    spent: float
    taken: float
    after_study: float

    @property
    def is_ok(self) -> bool:
        """Whether the whole study fits."""
        return self.after_study <= self.limit.epsilon

    @property
    def told(self) -> str:
        """Both numbers in words, and what to do where the study does not fit."""
        most, (table, _, field) = self.limit.epsilon, self.limit.rule.partition(".")
        name, field = (table, f"[{table}]") if table == "ceiling" else (field, field)
        kept = f"{self.taken:.3g} with what other studies have reserved" if self.taken > self.spent else ""
        if self.is_ok:
            reserved = f", {kept}" if kept else ""
            return (
                f"epsilon {self.spent:.3g} spent{reserved}, {self.after_study:.3g} after the study, {name} {most:.3g}"
            )
        reserved = f" ({kept})" if kept else ""
        release = ", run `synthfed client release` for one that is over," if kept else ""
        return (
            f"the study would bring epsilon from {self.spent:.3g}{reserved} to {self.after_study:.3g}, above the "
            f"{name} of {most:.3g}; raise {field}{release} or ask for a smaller study"
        )


def limits_of(policy: Policy, ceiling: Ceiling, ledger: Ledger, rules: SitePolicy) -> tuple[Limit, ...]:
    """Return the limits that the site sets."""
    study, book = policy.study.hash, ledger.book
    kept = lambda: book.kept_for_others(study)  # noqa: E731
    limits = [Limit("ceiling.epsilon", "the site's ceiling", ceiling.epsilon, lambda: book.costs, kept)]
    if rules.epsilon_per_year is not None:
        name = "the site's limit for one year"
        of_year = lambda: book.recent_costs(ledger.now_unix_s())  # noqa: E731
        limits.append(Limit("policy.epsilon_per_year", name, rules.epsilon_per_year, of_year, kept))
    if rules.epsilon_per_study is not None:
        name = "the site's limit for one study"
        of_study = lambda: book.costs_of(study)  # noqa: E731
        limits.append(Limit("policy.epsilon_per_study", name, rules.epsilon_per_study, of_study))
    return tuple(limits)
