"""Asking checks of a plugin: each once for each kind of data, in the light of those it builds on, and of waivers.

Never takes a check for passed that could not be asked, and never hides a waiver.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

from synthfed.protocols.errors import ConfigError

from ..registry import FOREIGN
from .check import Broken, Check

Outcome = Literal["passed", "failed", "waived", "not asked"]


class Subject(Protocol):
    """A plugin on one kind of data.

    Attributes:
        data: the kind of data, in words.
        told: what each check has said of it, by the check's name.
    """

    data: str
    told: dict[str, str]


T = TypeVar("T", bound=Subject)


@dataclass(frozen=True, slots=True)
class Result:
    """What one check said of a plugin on one kind of data.

    Attributes:
        check: its name.
        case: the kind of data.
        outcome: ``not asked`` where a check it builds on failed.
        sentence: why, empty where it passed.
    """

    check: str
    case: str
    outcome: Outcome
    sentence: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All results of one plugin.

    Attributes:
        plugin: the class's name.
        results: in the order of the checks, kind of data by kind of data.
    """

    plugin: str
    results: tuple[Result, ...]

    @property
    def is_conformant(self) -> bool:
        """Whether every check passed or was waived."""
        return all(result.outcome in ("passed", "waived") for result in self.results)

    def failed(self) -> tuple[str, ...]:
        """Return the names of the checks that failed, each once."""
        return tuple(dict.fromkeys(each.check for each in self.results if each.outcome == "failed"))

    def notable(self) -> tuple[Result, ...]:
        """Return what did not simply pass; of the checks not asked for one reason, one result that counts them."""
        alike = Counter((each.case, each.sentence) for each in self.results if each.outcome == "not asked")
        kept = [each for each in self.results if each.outcome in ("failed", "waived")]
        summed = [Result(f"{count} check(s)", case, "not asked", sentence) for (case, sentence), count in alike.items()]
        return (*kept, *summed)

    def __str__(self) -> str:
        """Return one line for each notable result, and the count of those that passed."""
        told = [f"{each.outcome}: {each.check} ({each.case}): {each.sentence}" for each in self.notable()]
        passed = sum(each.outcome == "passed" for each in self.results)
        return "\n".join([*told, f"{self.plugin}: {passed} of {len(self.results)} checks passed"])


@dataclass(frozen=True, slots=True)
class Suite(Generic[T]):
    """The checks of one sort of plugin, what they are asked of, and what they are excused from.

    Attributes:
        checks: in the order in which they are told.
        subjects: the plugin on each kind of data.
        waivers: by a check's name, why the plugin need not pass it.
    """

    checks: tuple[Check[T], ...]
    subjects: Sequence[T]
    waivers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse, with a ConfigError, a waiver that names no check or gives no reason."""
        names = {check.name for check in self.checks}
        for name, reason in self.waivers.items():
            if name not in names:
                raise ConfigError(f"{name!r} is no check; mend the name", where="waivers")
            if not reason.strip():
                raise ConfigError(f"{name!r} gives no reason; say why the plugin need not pass", where="waivers")

    def result(self, subject: T, check: Check[T]) -> Result:
        """Return what a check says of a plugin on one kind of data."""
        name, data = check.name, subject.data
        cause = self._cause(subject, check)
        if cause and cause != name:
            outcome: Outcome = "waived" if cause in self.waivers else "not asked"
            return Result(name, data, outcome, f"it builds on {cause}, which does not hold")
        if name in self.waivers:
            if cause:
                return Result(name, data, "waived", f"{self.waivers[name]} [{subject.told[name]}]")
            if not any(self._cause(other, check) for other in self.subjects):
                return Result(name, data, "failed", "passes, so its waiver is not needed; remove the waiver")
        return Result(name, data, "failed" if cause else "passed", subject.told[name])

    def _cause(self, subject: T, check: Check[T]) -> str:
        """Return the first check on the way to this one, or itself, that does not hold; empty if all do."""
        for need in check.needs:
            ground = next(each for each in self.checks if each.name == need)
            if cause := self._cause(subject, ground):
                return cause
        if check.name not in subject.told:
            subject.told[check.name] = told(check, subject)
        return check.name if subject.told[check.name] else ""


def told(check: Check[Any], subject: object) -> str:
    """Return what is wrong by a check, empty where nothing is."""
    try:
        check.run(subject)
    except Broken as error:
        return str(error)
    except FOREIGN as error:  # here all data are made up
        return f"it raises {type(error).__name__}: {error}"
    return ""


class Conformance:
    """One check of one plugin on one kind of data; call it in a test."""

    def __init__(self, suite: Suite[Any], subject: Subject, check: Check[Any]) -> None:
        """Share the subject, and so what is dear to compute, with the other checks of the same kind of data."""
        self._suite, self._subject, self.check = suite, subject, check

    def __str__(self) -> str:
        """Return a name for the test's report."""
        return f"{self.check.name}-{self._subject.data.replace(' ', '-')}"

    def result(self) -> Result:
        """Return what the check says."""
        return self._suite.result(self._subject, self.check)

    def __call__(self) -> None:
        """Run the check; AssertionError with its sentence where it failed or a waiver is not needed."""
        result = self.result()
        if result.outcome in ("failed", "not asked"):
            raise AssertionError(f"{result.outcome}: {result.check}: {result.sentence}")


def every(suite: Suite[Any]) -> list[Conformance]:
    """Return every check of a suite on every kind of data."""
    return [Conformance(suite, subject, check) for subject in suite.subjects for check in suite.checks]


def report(plugin: type, asked: Sequence[Conformance]) -> Report:
    """Return the results of checks of one plugin."""
    return Report(plugin.__name__, tuple(each.result() for each in asked))
