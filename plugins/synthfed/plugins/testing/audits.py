"""Checks of an audit plugin: a question with numbers that carry their intervals, by the seed alone.

Never judges whether the question is worth asking.
"""

import math
from collections.abc import Mapping
from typing import Final, get_args

import numpy as np

from synthfed.protocols.schema import Records
from synthfed.protocols.study import Study

from ..api import Audit, Source
from ..audits.estimate import Estimate
from .cases import Case
from .check import Broken, check, promise
from .surroundings import noting_randomness
from .trial import SEED
from .watch import noting_acts

ROWS: Final = 120
_RUNS: Final = ("audit-says-what-it-asks",)


class Auditing:
    """An audit plugin on one kind of data."""

    def __init__(self, plugin: type[Audit], case: Case) -> None:
        """Take part with the class itself: nothing is installed or pinned."""
        self.plugin, self.case, self.data = plugin, case, case.name
        self.study: Study = case.study({})
        self.told: dict[str, str] = {}
        self._first: tuple[Estimate, ...] | None = None

    def rows(self) -> dict[Source, Records]:
        """Return made-up rows of each source that the audit says it needs."""
        needs = self.plugin().needs
        seeds = {source: SEED + i for i, source in enumerate(get_args(Source))}
        return {each: self.case.draw(ROWS, np.random.default_rng(seeds[each])) for each in needs}

    def run(self, rows: Mapping[Source, Records] | None = None, seed: int = SEED) -> tuple[Estimate, ...]:
        """Return what the audit measures."""
        return tuple(self.plugin().run(self.study, self.rows() if rows is None else rows, seed))

    @property
    def estimates(self) -> tuple[Estimate, ...]:
        """What the audit measured the first time."""
        if self._first is None:
            self._first = self.run()
        return self._first


def is_taken(plugin: type[Audit], case: Case) -> bool:
    """Return whether an audit's question makes sense for such records."""
    try:
        return not plugin().unfit(case.study({}))
    except Exception:  # noqa: BLE001  (foreign code; a check tells of it)
        return True


def audit_is_documented(auditing: Auditing) -> None:
    """The class says what it measures, against what."""
    promise((auditing.plugin.__doc__ or "").strip(), "the class has no docstring; say what is measured, against what")


def audit_says_what_it_asks(auditing: Auditing) -> None:
    """An audit has a name, a question that ends with a question mark, and the sources it needs."""
    audit = auditing.plugin()
    promise(isinstance(audit.name, str) and audit.name, "`name` is empty")
    promise(isinstance(audit.question, str) and audit.question.endswith("?"), "`question` is no question")
    known = set(get_args(Source))
    promise(
        isinstance(audit.needs, tuple) and set(audit.needs) <= known and "synthetic" in audit.needs,
        f"`needs` is no tuple of {sorted(known)} with 'synthetic' in it",
    )


def unfit_studies_are_told(auditing: Auditing) -> None:
    """Where its question makes no sense an audit says why in a sentence; where it does, nothing."""
    try:
        reason = auditing.plugin().unfit(auditing.study)
    except Exception as error:
        raise Broken(f"`unfit` raises {type(error).__name__}; return a sentence") from error
    promise(isinstance(reason, str), "`unfit` returns no text; return a sentence, empty where the study fits")


def estimates_are_whole(auditing: Auditing) -> None:
    """There is an estimate, and each has a name, a finite value within its interval, baseline and control."""
    estimates = auditing.estimates
    promise(estimates and all(isinstance(each, Estimate) for each in estimates), "`run` returns no Estimate")
    for each in estimates:
        numbers = (each.value, each.low, each.high, each.level, each.baseline, each.control)
        promise(all(math.isfinite(number) for number in numbers), f"{each.name!r} holds a number that is not finite")
        promise(each.low <= each.value <= each.high, f"{each.name!r}: the value lies outside its interval")
        promise(0 < each.level < 1, f"{each.name!r}: level {each.level} is no probability")
    keys = [(each.name, each.column) for each in estimates]
    promise(len(set(keys)) == len(keys), "two estimates have one name and column; give each its own")


def a_seed_fixes_the_numbers(auditing: Auditing) -> None:
    """The same rows and seed give the same numbers."""
    promise(auditing.run() == auditing.estimates, "two runs with one seed differ; draw from the seed alone")


def rows_are_left_alone(auditing: Auditing) -> None:
    """An audit does not write into the rows."""
    rows = auditing.rows()
    auditing.run(rows)
    same = all(np.array_equal(rows[each], given, equal_nan=True) for each, given in auditing.rows().items())
    promise(same, "`run` changes the rows; work on a copy")


def audit_leaves_randomness_alone(auditing: Auditing) -> None:
    """An audit moves no global random state."""
    with noting_randomness() as moved:
        auditing.run()
    promise(not moved, f"it moves the global state of {', '.join(moved)}; use a generator made from the seed")


def audit_opens_nothing(auditing: Auditing) -> None:
    """An audit opens no file or socket: it sees real rows."""
    auditing.estimates  # noqa: B018  (what is loaded at first use may be)
    with noting_acts() as acts:
        auditing.run()
    promise(not acts, f"the audit made {(acts or [''])[0]}; it must read and write nothing but its arguments")


def other_rows_give_other_numbers(auditing: Auditing) -> None:
    """Synthetic rows that are all one and the same change at least one number."""
    rows = auditing.rows()
    rows["synthetic"] = np.repeat(rows["synthetic"][:1], ROWS, axis=0)
    values = [each.value for each in auditing.run(rows)]
    promise(values != [each.value for each in auditing.estimates], "other synthetic rows give the same numbers")


CHECKS: Final = (
    check(audit_is_documented),
    check(audit_says_what_it_asks),
    check(unfit_studies_are_told),
    check(estimates_are_whole, *_RUNS),
    check(a_seed_fixes_the_numbers, "estimates-are-whole"),
    check(rows_are_left_alone, "estimates-are-whole"),
    check(audit_leaves_randomness_alone, "estimates-are-whole"),
    check(audit_opens_nothing, "estimates-are-whole", is_privacy=True),
    check(other_rows_give_other_numbers, "a-seed-fixes-the-numbers"),
)
